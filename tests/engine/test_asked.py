"""What objectives ask teachers: of whom, with which features, and about second views."""

from dataclasses import replace

from transfuse.core.preprocess import Preprocess
from transfuse.data.views import BatchViews
from transfuse.engine.asked import asked_of, of_two_views
from transfuse.engine.loader import MemoryLoader, SecondView
from transfuse.engine.order import Order
from transfuse.engine.steppers.supervised import Supervised
from transfuse.engine.teacher_cache.teachers import LiveTeacher

from .conftest import network, weighted

OBJECTIVES = [
    weighted("kd", teachers=("one", "two")),
    weighted("mlld", teachers=("two",)),
    replace(weighted("fitnet", teachers=("two",)), teacher_taps=("0", "2")),
    replace(weighted("attention_transfer", teachers=("two",)), teacher_taps=("2", "4")),
]


def test_a_teacher_is_asked_for_the_features_of_all_objectives_that_ask_it():
    assert asked_of(OBJECTIVES) == {"one": (), "two": ("0", "2", "4")}
    assert asked_of(of_two_views(OBJECTIVES)) == {"two": ()}


def test_of_second_views_only_teachers_and_features_of_objectives_of_two_views_are_opened(problem):
    opened = []

    def opener(name):
        def teacher(loader):
            opened.append((name, loader.views))
            return LiveTeacher(network(), Preprocess(), loader.fetch)

        return teacher

    views = BatchViews(2, 0, second=BatchViews(2, 1))
    loader = MemoryLoader(problem.samples, views, Order(50, 10, 0))
    openers = {name: opener(name) for name in ("one", "two")}
    teachers = {name: make(loader) for name, make in openers.items()}
    opened.clear()
    stepper = Supervised(network(), Preprocess(), OBJECTIVES, teachers, second=SecondView(loader, openers))
    assert opened == [("two", views.second)]
    assert stepper._teachers_of_second["two"].tapped == ()
    assert stepper._teachers["two"].tapped == ("0", "2", "4")
    Supervised(network(), Preprocess(), OBJECTIVES[:1], teachers, second=SecondView(loader, openers))
    assert len(opened) == 1
