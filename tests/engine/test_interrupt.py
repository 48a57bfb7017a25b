"""Signals while training."""

import os
import signal

from transfuse.engine.interrupt import Interrupt


def test_a_background_job_goes_on_ignoring_what_its_shell_told_it_to_ignore():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupt.asked
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupt.asked
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
