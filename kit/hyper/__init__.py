"""η: learners of the training hyper-parameters. One is added by `register` above its class."""

from kit.hyper.base import HYPER, DerivedHyper, Fixed, HyperLearner, Values, register
from kit.hyper.controller import Controller, Searched, read_bases
from kit.hyper.gradients import Fresh, HyperGradient, LookAhead, Validation
