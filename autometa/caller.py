"""What belongs to the program that calls us and is as before when a call returns.

Ray, MLflow and torch change the whole process: Ray puts settings into the environment, replaces the
handler of Ctrl-C and draws from `random`, MLflow adds warning filters and log handlers, and a unit
that runs in this process sets torch's threads.
"""

from __future__ import annotations

import faulthandler
import functools
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import numpy as np
import torch

P = ParamSpec("P")
T = TypeVar("T")

_lock = threading.Lock()
_inside = 0
_process = ExitStack()


def leaves_no_trace(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: threads, warnings, environment, logging, random numbers and signal handlers are
    after the call what they were before it, also where it raises."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with caller_state():
            return function(*args, **kwargs)

    return call


@contextmanager
def caller_state() -> Iterator[None]:
    """Put back on leaving what is global. Of calls that overlap in several threads, the first notes
    the state of the process and the last puts it back; what the program's other threads change
    meanwhile is lost with it."""
    global _inside
    threads = torch.get_num_threads()  # of this thread only
    with _lock:
        if _inside == 0:
            for kept in (_environment, _warnings, _logging, _random, _hooks):
                _process.enter_context(kept())
        _inside += 1
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        with _lock:
            _inside -= 1
            if _inside == 0:
                _process.close()


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextmanager
def _warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        yield


@contextmanager
def _logging() -> Iterator[None]:
    """Of the loggers that there were: those that a library made when it was loaded are its own."""
    manager = logging.root.manager
    known = [one for one in manager.loggerDict.values() if isinstance(one, logging.Logger)]
    states = [
        (one, one.level, one.propagate, one.disabled, list(one.handlers), list(one.filters))
        for one in (logging.root, *known)
    ]
    handlers = {handler for state in states for handler in state[4]}
    their = [(handler, handler.level, list(handler.filters)) for handler in handlers]
    disabled = manager.disable
    try:
        yield
    finally:
        for one, level, propagate, is_disabled, own, filters in states:
            one.setLevel(level)
            one.propagate, one.disabled = propagate, is_disabled
            one.handlers[:], one.filters[:] = own, filters
        for handler, level, filters in their:
            handler.setLevel(level)
            handler.filters[:] = filters
        logging.disable(disabled)


@contextmanager
def _random() -> Iterator[None]:
    python, numpy, drawn = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(drawn)


@contextmanager
def _hooks() -> Iterator[None]:
    """Handlers of Ctrl-C and SIGTERM, and of what ends the program."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook, reports = sys.excepthook, faulthandler.is_enabled()
    try:
        yield
    finally:
        sys.excepthook = hook
        if not reports:
            faulthandler.disable()
        if threading.current_thread() is threading.main_thread():  # no other may set them
            for number, handler in handlers.items():
                if handler is not None:  # else C code set it, and Python cannot
                    signal.signal(number, handler)
