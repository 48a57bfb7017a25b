"""Unification of axes."""

from transfuse.fusion.alignment.axes import Axes, Segment, joined


def variables(axes, axis):
    return [(segment.variable, segment.outer, segment.size, segment.inner) for segment in axes.resolve(axis) or ()]


def free(axes, axis):
    return bool(axes.resolve(axis)) and not any(axes.fixed(segment.variable) for segment in axes.resolve(axis))


def test_ties_are_transitive_and_a_fixed_order_reaches_all():
    axes = Axes()
    one, two, three = (axes.fresh(4) for _ in range(3))
    axes.unify(one, two)
    axes.unify(two, three)
    assert variables(axes, one) == variables(axes, three)
    assert free(axes, one)
    axes.unify(three, None)
    assert not free(axes, one)


def test_fixing_before_tying_reaches_all_too():
    axes = Axes()
    one, two = axes.fresh(4), axes.fresh(4)
    axes.fix(one)
    axes.unify(one, two)
    assert not free(axes, two)


def test_an_axis_of_one_entry_has_no_order():
    assert Axes().fresh(1) is None


def test_a_flattened_axis_takes_the_form_of_its_channels():
    axes = Axes()
    channels, columns = axes.fresh(3), axes.fresh(12)
    axes.unify((Segment(channels[0].variable, 3, 1, 4),), columns)
    assert variables(axes, columns) == [(channels[0].variable, 1, 3, 4)]
    assert free(axes, columns)


def test_two_forms_of_the_same_units_are_fixed():
    axes = Axes()
    units = axes.fresh(2)[0].variable
    axes.unify((Segment(units, 2, 1, 2),), (Segment(units, 2, 2, 1),))
    assert axes.fixed(units)


def test_a_row_of_parts_cuts_what_it_is_tied_to():
    axes = Axes()
    left, right, whole = axes.fresh(2), axes.fresh(3), axes.fresh(5)
    axes.unify(whole, joined([(left, 2), (right, 3)], axes))
    assert variables(axes, whole) == variables(axes, left) + variables(axes, right)
    axes.fix(left)
    first, second = axes.resolve(whole)
    assert axes.fixed(first.variable)
    assert not axes.fixed(second.variable)


def test_rows_with_other_cuts_are_cut_at_every_border():
    axes = Axes()
    one = joined([(axes.fresh(2), 2), (axes.fresh(4), 4)], axes)
    other = joined([(axes.fresh(3), 3), (axes.fresh(3), 3)], axes)
    axes.unify(one, other)
    assert [segment.size for segment in axes.resolve(one)] == [2, 1, 3]
    assert variables(axes, one) == variables(axes, other)
    assert free(axes, one)


def test_a_cut_through_a_unit_fixes_it():
    axes = Axes()
    pairs = (Segment(axes.fresh(3)[0].variable, 3, 1, 2),)
    assert axes.slice(pairs, 0, 3) is None
    assert not free(axes, pairs)


def test_a_slice_between_units_leaves_both_parts_free():
    axes = Axes()
    whole = axes.fresh(6)
    part = axes.slice(whole, 2, 5)
    assert [segment.size for segment in axes.resolve(whole)] == [2, 3, 1]
    assert variables(axes, part) == variables(axes, whole)[1:2]
    assert free(axes, whole)
