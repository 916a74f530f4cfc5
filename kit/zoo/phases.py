"""DAAS and AutoHAS with their parts searched one after the other, which their papers compare with the joint search:
DAAS's Table 6, and "phase" in AutoHAS's Table 4."""

from kit.methods import MIXUP, RETRAIN, Stage, register

NAS = Stage("architecture", search=True, augment="default", step="bi-level")
STAGES = (NAS, Stage("policy", restart=True, step="bi-level"), RETRAIN)
COMPOSED = {"arch": "daas", "augment": "policy-gradient"}
register("daas-independent", "DAAS, NAS and DA searched one after the other", stages=STAGES, **COMPOSED)

NAS = Stage("architecture", search=True, hyper="default", step="reward", warm_up=0.3)
STAGES = (NAS, Stage("hyper-parameters", restart=True, step="reward", warm_up=0.3), RETRAIN)
COMPOSED = {"arch": "reinforce", "hyper": "reinforce", "space": "mobile", "values": MIXUP}
register("autohas-phase", "AutoHAS, phase-wise: NAS, then HPO", stages=STAGES, **COMPOSED)
