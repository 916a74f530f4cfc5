"""Faults of one line each, put into a copy of kit one at a time: every one of them has to make the tests fail that are
named beside it.

    make mutants        # or python tests/mutants.py [word …]: those whose file or line has one of the words

Prints the survivors, and exits with 1 where there are some. Each fault runs in a fork of one process that has imported
torch, two at a time.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("kit", "tests", "notebooks", "pyproject.toml")
AT_ONCE = 2

LEVELS = "test_step_two_levels.py::test_two_levels_equal_the_algorithm_written_out"
ONCE = "test_step_two_levels.py::test_what_is_not_drawn_passes_once"
REWARD = "test_step_two_levels.py::test_the_reward_step_equals_the_algorithm_written_out"
SECOND = "test_step_two_levels.py::test_second_order_darts_is_the_gradient_one_step_ahead"
LOSSES = "test_step_two_levels.py::test_a_policy_without_validation_images_learns_from_the_training_losses"
BETA = "test_step_two_levels.py::test_the_derived_child_takes_the_edges_that_beta_ranks_first"
RETRAINED = "test_step_two_levels.py::test_the_retraining_uses_the_derived_regularisers_rates_and_optimizer"
DERIVED = "test_methods.py::test_moves_only_its_own_variables[daas]"
FOUND = "test_methods.py::test_alpha_is_recorded_and_stands_still_where_it_does_not_search[dha]"
CALLER = "test_isolation.py::test_the_callers_state_neither_changes_a_search_nor_is_changed"
RESUMED = "test_methods.py::test_stopped_between_epochs_and_resumed_it_is_the_same_run[dha]"
JOINT = "test_step.py::test_joint_step_equals_algorithm_one_written_out"
WRAPPED = "test_step.py"
MIXUP = "test_estimators_hyper.py::test_mixed_images_labels_and_their_loss_are_the_formula"
SHARE = "test_estimators_hyper.py::test_mixups_share_is_beta_distributed"
AHEAD = "test_estimators_policy.py::test_ahead_is_one_plain_step_and_then_exactly_back"
JVP = "test_estimators_policy.py::test_one_forward_derivative_is_every_images_inner_product"
GRADIENTS = "test_hyper.py"
ALPHA = "test_estimators_arch.py"
MODULE = "test_augment_module.py"
ETA = "test_estimators_hyper.py"
POLICY = "test_policy.py"
GRADIENT = "test_estimators_policy.py"
BASELINES = "test_zoo_arch.py"


class Fault(NamedTuple):
    file: str  # below kit/
    old: str  # once in it
    new: str
    tests: str  # that fail, below tests/, with blanks between them


FAULTS = [
    Fault(*fault)
    for fault in (
        # ---- the two-level step
        ("search/step.py", "range(n if arch.draws else 1)", "range(n)", ONCE),
        ("search/step.py", "lr = hyper.sample(schedule).lr\n", "lr = hyper.sample(1.0).lr\n", LEVELS),
        ("search/step.py", "[of_arch(child) for child in upper]", "[of_arch(upper[0])]", LEVELS),
        ("search/step.py", "for rewards in each for _", "for rewards in each[:1] for _", LEVELS),
        ("search/step.py", "n = max(1, parts.draws.policies)", "n = 1", LEVELS),
        ("search/step.py", "several(parts.draws.children)", "several(1)", LEVELS),
        ("search/step.py", "several(parts.draws.arch_samples)", "several(1)", LEVELS),
        ("search/step.py", "Gradient.mean([one.gradient for one in passes])", "passes[-1].gradient", LEVELS),
        ("search/step.py", "parts, (images, y), lambda: held_out", "parts, (x, y), lambda: held_out", LEVELS),
        ("search/step.py", "training_pass(net, x, y, child) for", "training_pass(net, images, y, child) for", LEVELS),
        ("search/step.py", '"val" in augment.needs', "False", LEVELS),
        ("search/step.py", "if not from_val:", "if False:", LOSSES),
        (
            "search/step.py",
            "partial(arch.unrolled, train=(x, y), lr=lr) if",
            "partial(arch.unrolled, train=held_out, lr=lr) if",
            SECOND,
        ),
        # ---- the one-level and reward step
        ("search/step.py", "hyper.observe(sgd.trace, train.gradient)", "hyper.observe(None, train.gradient)", JOINT),
        ("search/step.py", "losses=train.losses, rewards", "losses=-train.losses, rewards", JOINT),
        ("search/step.py", "arch.update(child, gates=train.gradient.gates, **measured)", "pass", JOINT),
        (
            "search/step.py",
            "trace = sgd.step(train.gradient, *values)",
            "trace = sgd.step(train.gradient, *hyper.sample())",
            JOINT,
        ),
        ("search/step.py", "hyper.update(trace, **measured)\n    return Outcome(train", "return Outcome(train", REWARD),
        # ---- signals
        (
            "search/signals.py",
            "    with net.plain():\n        return outer_gradient",
            "    if True:\n        return outer_gradient",
            LEVELS,
        ),
        ("search/signals.py", "torch.no_grad(), net.plain(), net.frozen", "torch.no_grad(), net.frozen", REWARD),
        ("search/signals.py", "net.plain(), net.frozen_statistics(child.picks):", "net.plain():", REWARD),
        (
            "search/signals.py",
            "with net.frozen_statistics(child.picks):\n        loss = net.losses(*batch",
            "if True:\n        loss = net.losses(*batch",
            LEVELS,
        ),
        ("search/signals.py", "for batch in own]), lr):", "for batch in own]), -lr):", LEVELS),
        ("search/signals.py", "for batch in own]), lr):", "for batch in own]), 0 * lr):", LEVELS),
        ("search/signals.py", "for _ in range(draws)]", "for _ in range(1)]", LEVELS),
        ("search/signals.py", "own = [transformed(augment.sample(len(y)))", "own = [(images, y)", LEVELS),
        ("search/signals.py", "lambda draw: grads.directional(", "lambda draw: -grads.directional(", LEVELS),
        (
            "search/signals.py",
            "validation_gradient(net, held_out(), child)",
            "validation_gradient(net, train, child)",
            LEVELS,
        ),
        (
            "search/signals.py",
            'accuracy(net, next(batches["val"]), child)',
            'accuracy(net, next(batches["train"]), child)',
            REWARD,
        ),
        ("search/signals.py", ".float().mean()).item()", ".float().sum()).item()", REWARD),
        ("search/signals.py", "setattr(net, name, value)", "pass", REWARD),
        ("search/signals.py", "net.losses(*mixed(x, y, net), child)", "net.losses(x, y, child)", LEVELS),
        ("search/signals.py", 'if source == "val":', "if False:", GRADIENTS),
        ("search/signals.py", "blend(F.one_hot(y, net.classes))", "y", MIXUP),
        ("search/signals.py", "ranks.gather(own)[order]", "ranks.gather(own)", MIXUP),
        ("search/signals.py", "return u / (u + v)", "return u", SHARE),
        ("search/signals.py", "** (1 / a)", "** a", SHARE),
        ("space/network.py", ", auxiliary=0.0", "", LEVELS),
        ("space/network.py", ", dropout=0.0, auxiliary", ", auxiliary", LEVELS),
        ("space/network.py", "drop_path=0.0, dropout=0.0, auxiliary", "dropout=0.0, auxiliary", LEVELS),
        # ---- gradients and the weights' step
        ("search/grads.py", "torch._foreach_sub_(theta, torch", "torch._foreach_add_(theta, torch", AHEAD),
        ("search/grads.py", "torch._foreach_copy_(theta, before)", "pass", AHEAD),
        ("search/grads.py", "/ len(gradients) for each in terms", "/ len(each) for each in terms", f"{ETA} {LEVELS}"),
        ("search/grads.py", "return -along_v, -self.lr", "return along_v, -self.lr", GRADIENTS),
        ("search/grads.py", "(torch.dot(g, theta) + self.lr * along_v)", "torch.dot(g, theta)", GRADIENTS),
        (
            "search/grads.py",
            "(self.clip / (_flat(g).norm() + 1e-6))",
            "(2 * self.clip / _flat(g).norm())",
            "test_grads.py",
        ),
        (
            "search/grads.py",
            "torch._foreach_mul(parameters, weight_decay)",
            "torch._foreach_mul(parameters, 0.0)",
            "test_grads.py",
        ),
        (
            "search/grads.py",
            "torch._foreach_mul_(velocity, self.momentum)",
            "torch._foreach_mul_(velocity, 0.5)",
            "test_grads.py",
        ),
        ("search/grads.py", 'lr if optimizer == "sgd" else lr * RATES[optimizer]', "lr", ETA),
        ("search/grads.py", "torch._foreach_lerp_(first, g, 0.1)", "torch._foreach_lerp_(first, g, 0.2)", ETA),
        ("search/grads.py", "addcmul_(second, g, g, 1 - decay)", "addcmul_(second, g, g, decay)", ETA),
        ("search/grads.py", "torch.no_grad(), net.frozen_statistics(child.picks)", "torch.no_grad()", JVP),
        ("search/grads.py", 'trace if optimizer == "sgd" else None', "trace", ETA),
        ("augment/module.py", "made.adopt(self.found)", "made.probabilities()", MODULE),
        ("augment/module.py", "(place := (os.getpid(), *size, device))", "(place := (0, *size, device))", MODULE),
        ("augment/ops.py", "cumulative - counts + step // 2", "cumulative + step // 2", "test_augment_ops.py"),
        ("run/warnings.py", "> 0.99 * math.log", "> 0.49 * math.log", "test_warnings.py"),
        ("run/warnings.py", "RISEN * smooth.min() + 0.1", "smooth.min()", "test_warnings.py"),
        ("run/warnings.py", "(support[0] == support[-1]).all()", "True", "test_warnings.py"),
        ("search/engine.py", "steps * (self.config.epochs - done)", "steps * self.config.epochs", "test_progress.py"),
        ("studies/browse.py", "of_method.get(name, False)", "False", "test_browse.py"),
        ("figures/many.py", "ends[order, 1] - rows, y_min=0", "0 * rows, y_min=0", "test_figures.py -k time"),
        ("figures/many.py", "= ROW * (high - low)", "= 0.5 * ROW * (high - low)", "test_figures.py -k names"),
        ("figures/style.py", '"update": again}', '"update": not again}', "test_figures.py -k faces"),
        ("studies/landscape.py", "if work <= CHEAP", "if work < CHEAP", "test_landscape.py -k clock"),
        (
            "studies/landscape.py",
            "(held[name].to(end) - end)",
            "(end - held[name].to(end))",
            "test_landscape.py -k path",
        ),
        ("zoo/adversarial_autoaugment.py", "grad(-(reward", "grad((reward", "test_zoo_augment.py"),
        ("zoo/adversarial_autoaugment.py", " / (mean.std() + 1e-5)", "", "test_zoo_augment.py"),
        (
            "zoo/adversarial_autoaugment.py",
            "if gradient else self.policies",
            "if 0 else self.policies",
            "test_zoo_augment.py",
        ),
        ("zoo/joint.py", "clamp_(self.least, 1)", "clamp_(0, 1)", "test_joint.py"),
        ("zoo/joint.py", "epochs / 100)", "epochs / 1000)", "test_joint.py"),
        ("zoo/trials.py", "self.told()[1])", "False)", ETA),
        ("zoo/trials.py", "if last else self.whole", "", ETA),
        ("search/build.py", "learner.waits or name", "name", BASELINES),
        ("zoo/enas.py", "-advantage * laws", "advantage * laws", BASELINES),
        ("zoo/enas.py", "index_fill(0, taken, -torch.inf)", "index_fill(0, taken, 0.0)", BASELINES),
        ("zoo/manas.py", "* (1 - reward()) / child.memory.clamp(min=1e-12)", "* (1 - reward())", BASELINES),
        ("zoo/evolution.py", "picks in known or not", "not", BASELINES),
        ("zoo/p_darts.py", "if normal[one[1]] and", "if", BASELINES),
        ("zoo/p_darts.py", "weights * kept / (1 - p)", "weights * kept", BASELINES),
        ("zoo/p_darts.py", "DROPS = (3, 2)", "DROPS = (2, 3)", BASELINES),
        ("zoo/pc_darts.py", "torch.cat((y, rest * gate), dim=1)", "torch.cat((y, rest), dim=1)", BASELINES),
        ("zoo/pc_darts.py", "part.relu() if self.rectifies else part", "part", BASELINES),
        ("search/evaluate.py", "child or search.parts.arch.derived()", "search.parts.arch.derived()", BASELINES),
        ("zoo/darts.py", "outer.gates[slot] - lr * term", "outer.gates[slot] + lr * term", SECOND),
        # ---- α
        ("arch/edges.py", " + (by_edge.sum(2) * edges).sum()", "", ALPHA),
        (
            "arch/edges.py",
            "self.edge_present.unsqueeze(2), scores / temperature, 0.0",
            "self.edge_present.unsqueeze(2), scores, 0.0",
            ALPHA,
        ),
        ("arch/edges.py", "return self.edge_scores().detach().softmax(1)", "return super().edge_strength()", BETA),
        ("arch/edges.py", "torch.where(best, 1.0 + edge, operations * edge)", "operations * edge", BETA),
        ("arch/edges.py", "first + (last - first) * share", "first", ALPHA),
        ("arch/edges.py", "(self.edge_scores() + edge_noise).topk", "edge_noise.topk", "test_samplers.py"),
        ("arch/logits.py", "left.scatter(1, picked, -torch.inf)\n", "left\n", ALPHA),
        ("arch/logits.py", ".masked_fill(self.frozen.unsqueeze(1), 0.0)", "", ALPHA),
        ("arch/logits.py", "[-advantage * gradient for", "[advantage * gradient for", ALPHA),
        ("arch/logits.py", "else self.target.reward(child.picks)", "else 0.0", ALPHA),
        ("arch/logits.py", "value + self.target.penalty(", "value - self.target.penalty(", ALPHA),
        ("arch/logits.py", ">= self.options.fix_margin", ">= 0", ALPHA),
        ("arch/base.py", "if chosen is not None else ():", "if False else ():", f"{ALPHA} test_sparse_coding.py"),
        (
            "arch/base.py",
            "if self.limits.allow(picks):\n            return picks\n        strength",
            "if True:\n            return picks\n        strength",
            "test_samplers.py test_sparse_coding.py",
        ),
        (
            "arch/sparse.py",
            "self.b.detach().unsqueeze(2) - self.A",
            "self.b.detach().unsqueeze(2) + self.A",
            "test_sparse_coding.py",
        ),
        ("arch/sparse.py", "return [(columns @", "return [-(columns @", "test_sparse_coding.py"),
        ("arch/sparse.py", "if picks == self.picks or self.limits.allow(picks):", "if True:", "test_sparse_coding.py"),
        (
            "arch/sparse.py",
            "return self.moved <= self.options.freeze_tol",
            "return self.moved < 0",
            "test_sparse_coding.py",
        ),
        (
            "arch/lasso.py",
            "(gradient + lam * alpha.sign()).abs()",
            "(gradient - lam * alpha.sign()).abs()",
            "test_lasso.py",
        ),
        ("arch/lasso.py", "_apply(A.mT, b) - lam * alpha.sign()", "_apply(A.mT, b)", "test_lasso.py"),
        # ---- η and the wrappers
        ("hyper/controller.py", "[-advantage * gradient for", "[advantage * gradient for", REWARD),
        ("hyper/controller.py", "(likeliest if isinstance(basis[0], str) else mean)", "likeliest", ETA),
        ("zoo/in_turn.py", "one if name == self.active else None", "one", ETA),
        ("zoo/in_turn.py", "self.turn + 1, None", "self.turn, None", ETA),
        ("arch/logits.py", "< self.sampled / warm", "> self.sampled / warm", "test_estimators_arch.py"),
        (
            "search/learner.py",
            "factor * before + (1 - factor) * reward",
            "(1 - factor) * before + factor * reward",
            ETA,
        ),
        ("search/learner.py", "return reward - before", "return reward", ETA),
        (
            "search/learner.py",
            "return [] if self.passed < self.steps else",
            "return [] if self.passed <= self.steps else",
            WRAPPED,
        ),
        ("search/learner.py", "return self.inner.derived(*args)", "return self.inner.sample(*args)", RETRAINED),
        ("search/build.py", "DerivedHyper(learner) if role", "Derived(learner) if role", RETRAINED),
        ("search/build.py", "else genotype or self.given()", "else self.given()", FOUND),
        ("search/build.py", "if not drawn and all(", "if not drawn or all(", "test_limits_methods.py -k given"),
        ("search/engine.py", "after.callback(gc.set_threshold, *gc.get_threshold())", "pass", CALLER),
        ("search/engine.py", 'self._enter(state["stage"], state["genotype"])', 'self._enter(state["stage"])', RESUMED),
        (
            "search/build.py",
            "return Derived(policy) if role",
            "return policy if role",
            DERIVED,
        ),
        ("hyper/base.py", '("mixup", "dropout", "drop_path") if', '("mixup", "dropout") if', RETRAINED),
        ("hyper/base.py", '("mixup", "dropout", "drop_path") if', '("mixup", "drop_path") if', RETRAINED),
        ("hyper/base.py", '("mixup", "dropout", "drop_path") if', '("dropout", "drop_path") if', RETRAINED),
        ("hyper/base.py", "return Values(lr * schedule", "return Values(lr", JOINT),
        ("hyper/base.py", "decay if self.learns_decay else decay * 0)", "decay)", GRADIENTS),
        ("hyper/gradients.py", "self.options.hyper_every == 0", "self.options.hyper_every == 1", "test_hyper.py"),
        ("hyper/gradients.py", 'kept = ("passed",)', "kept = ()", "test_hyper.py"),
        ("hyper/gradients.py", "[trace.lr * by_lr, trace", "[by_lr, trace", GRADIENTS),
        ("hyper/gradients.py", "self.log.clamp_(self.low, self.high)", "pass", "test_hyper.py test_reach.py"),
        ("hyper/gradients.py", ".to(self.log.dtype) * self.moves]", ".to(self.log.dtype)]", GRADIENTS),
        # ---- τ
        (
            "augment/gradient.py",
            "-(r * self.log_probability(draw)).mean()",
            "(r * self.log_probability(draw)).mean()",
            GRADIENT,
        ),
        (
            "augment/gradient.py",
            "r = r - (r.sum() - r) / (len(r) - 1)",
            "r = r - r.mean()",
            f"{GRADIENT} -k expectation",
        ),
        (
            "augment/gradient.py",
            "logsigmoid(-self.apply_logit)[place]",
            "logsigmoid(self.apply_logit)[place]",
            GRADIENT,
        ),
        ("augment/gradient.py", "draws = 1 if self.shared and not derived else n", "draws = n", GRADIENT),
        ("augment/gradient.py", "0.0 if derived else _gumbel", "_gumbel", GRADIENT),
        ("augment/gradient.py", "applied.clamp(max=1 - 1e-7).logit()", "applied.logit() * 0", GRADIENT),
        ("augment/softmax.py", "on * (losses - losses.sum() / n.clamp(min=1))", "on * losses", "test_softmax.py"),
        (
            "augment/softmax.py",
            "climbed = p * (c - torch.dot(c, p))",
            "climbed = p * c",
            "test_softmax.py test_policy.py",
        ),
        (
            "augment/softmax.py",
            "climbed + self.options.tau_entropy",
            "climbed - self.options.tau_entropy",
            "test_softmax.py",
        ),
        ("augment/softmax.py", "<= self.options.tau_reach", "<= 2 * self.options.tau_reach", "test_softmax.py"),
        ("augment/softmax.py", "self.tau.sub_(self.options.tau_lr", "self.tau.add_(self.options.tau_lr", JOINT),
        ("augment/softmax.py", "add_(g + DECAY * self.tau)", "add_(g)", POLICY),
        ("augment/softmax.py", "* level[:, None]\n", "\n", POLICY),
        ("augment/softmax.py", "< chosen.applied", "< 1", POLICY),
        ("augment/softmax.py", "on = torch.zeros_like(on)", "pass", POLICY),
        ("augment/policy.py", "torch.where(draw.flip[:, None]", "torch.where(~draw.flip[:, None]", POLICY),
        (
            "augment/policy.py",
            "torch.where(square(images, draw.hole, self.cutout)",
            "torch.where(~square(images, draw.hole, self.cutout)",
            POLICY,
        ),
        ("augment/policy.py", "name not in idle)", "True)", POLICY),
    )
]


def problem(fault: Fault, text: str) -> str | None:
    """What is wrong with a fault of the list, not of kit."""
    if text.count(fault.old) != 1:
        return f"kit/{fault.file}: {fault.old!r} stands there {text.count(fault.old)} times, not once"
    return "it changes nothing" if fault.old == fault.new else None


def forked(tree: Path, patched: dict[Path, str], targets: str) -> int:
    """The process that runs the named tests in the tree, with these files' texts; it exits as pytest does."""
    if child := os.fork():
        return child
    code = 99
    try:
        for path, text in patched.items():
            (tree / path).write_text(text)
        os.chdir(tree)
        sys.dont_write_bytecode = True
        sys.path[:0] = [str(tree), str(tree / "tests")]
        out = os.open(tree / "out.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        import pytest

        named = [word if word.startswith("-") or "test_" not in word else f"tests/{word}" for word in targets.split()]
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *named]))
    finally:
        os._exit(code)


def main(words: list[str]) -> int:
    import optuna  # noqa: F401  the forks find these imported
    import pandas  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch
    import torchvision  # noqa: F401

    torch.set_num_threads(1)
    chosen = [fault for fault in FAULTS if not words or any(w in f"{fault.file} {fault.old}" for w in words)]
    whole = " ".join(dict.fromkeys(fault.tests for fault in chosen if "-k" not in fault.tests))
    waiting, running, failed, began = [None, *chosen], {}, [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        free = [Path(folder) / str(i) for i in range(AT_ONCE)]
        for tree in free:
            for name in COPIED:
                source = ROOT / name
                skip = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, tree / name, ignore=skip) if source.is_dir() else shutil.copy(
                    source, tree / name
                )
        while waiting or running:
            while waiting and free:
                fault, tree = waiting.pop(0), free.pop()
                if fault is None:  # nothing changed: the tests have to pass
                    running[forked(tree, {}, whole)] = None, tree, ""
                    continue
                text = (tree / "kit" / fault.file).read_text()
                if wrong := problem(fault, text):
                    failed.append(wrong)
                    free.append(tree)
                    continue
                patched = {Path("kit") / fault.file: text.replace(fault.old, fault.new)}
                running[forked(tree, patched, fault.tests)] = fault, tree, text
            if not running:
                continue
            process, status = os.wait()
            (fault, tree, text), code = running.pop(process), os.waitstatus_to_exitcode(status)
            free.append(tree)
            last = (tree / "out.txt").read_text().strip().splitlines()[-1:]
            if fault is None:
                failed += [f"without a fault the tests fail: {last}"] * (code != 0)
                continue
            (tree / "kit" / fault.file).write_text(text)
            print(".", end="", flush=True)
            if code != 1:
                what = "survived" if code == 0 else f"did not run (pytest's exit code {code}, {last})"
                failed.append(f"kit/{fault.file}: {fault.old!r} → {fault.new!r} {what}: {fault.tests}")
    print("", *failed, sep="\n")
    print(f"{len(chosen)} faults, {len(failed)} survivors and errors, {time.perf_counter() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
