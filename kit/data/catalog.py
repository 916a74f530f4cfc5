"""The data sets that kit knows by name: each name's loader and the facts about it, in one table."""

from __future__ import annotations

from kit.data import builtin, photographs
from kit.data.registry import About, register

_NONE_STATED = "none stated"
_RESEARCH = "non-commercial research, by its terms"
_BENCHMARK = "80:20 lists of NAS-Benchmark (Yang et al. 2020)"
_BROUGHT = "brought by the user"

register(
    "digits",
    builtin.digits,
    flip=False,
    about=About(
        "handwritten digits", 10, "1,797", "8x8 grey", "stratified 60:15:25 by kit", "CC BY 4.0", "with scikit-learn"
    ),
)
register(
    "fashion_mnist",
    builtin.fashion_mnist,
    about=About(
        "pieces of clothing",
        10,
        "60,000 + 10,000",
        "28x28 grey",
        "published train and test",
        "MIT",
        "github.com/zalandoresearch/fashion-mnist",
    ),
)
register(
    "cifar10",
    builtin.cifar10,
    about=About(
        "photographs of objects",
        10,
        "50,000 + 10,000",
        "32x32",
        "published train and test",
        _NONE_STATED,
        "cs.toronto.edu/~kriz/cifar.html",
    ),
)
register(
    "cifar100",
    builtin.cifar100,
    about=About(
        "photographs of objects",
        100,
        "50,000 + 10,000",
        "32x32",
        "published train and test",
        _NONE_STATED,
        "cs.toronto.edu/~kriz/cifar.html",
    ),
)
register(
    "svhn",
    builtin.svhn,
    flip=False,
    about=About(
        "house-number digits",
        10,
        "73,257 + 26,032",
        "32x32",
        "published train and test, without extra",
        _RESEARCH,
        "ufldl.stanford.edu/housenumbers",
    ),
)
register(
    "elpv",
    builtin.elpv,
    about=About(
        "solar cells, functional or defective (probability 2/3 or 1)",
        2,
        "2,624",
        "300x300 grey",
        "a quarter test as in Deitsch et al. 2019, drawn by kit, stratified by probability and cell type",
        "CC BY-NC-SA 4.0",
        "pip install elpv-dataset",
    ),
)
register(
    "elpv4",
    builtin.elpv4,
    about=About(
        "solar cells by defect probability 0, 1/3, 2/3, 1",
        4,
        "2,624",
        "300x300 grey",
        "as elpv",
        "CC BY-NC-SA 4.0",
        "pip install elpv-dataset",
    ),
)
register(
    "sport8",
    photographs.sport8,
    default_size=224,
    about=About(
        "photographs of sports events (UIUC)",
        8,
        "1,579",
        "vary",
        f"{_BENCHMARK}; without them stratified by kit",
        _NONE_STATED,
        "vision.stanford.edu/lijiali/event_dataset, a RAR",
    ),
)
register(
    "mit67",
    photographs.mit67,
    default_size=224,
    about=About(
        "photographs of indoor scenes",
        67,
        "5,360 + 1,340",
        "vary",
        "TrainImages.txt and TestImages.txt of Quattoni and Torralba 2009",
        _NONE_STATED,
        "web.mit.edu/torralba/www/indoor.html",
    ),
)
register(
    "mit67_nas",
    photographs.mit67_nas,
    default_size=224,
    about=About(
        "photographs of indoor scenes",
        67,
        "12,466 + 3,153",
        "vary",
        _BENCHMARK,
        _NONE_STATED,
        "web.mit.edu/torralba/www/indoor.html",
    ),
)
register(
    "flowers102",
    photographs.flowers102,
    default_size=224,
    about=About(
        "photographs of flowers (Oxford)",
        102,
        "1,020 + 1,020 + 6,149",
        "vary",
        "setid.mat of Nilsback and Zisserman 2008",
        _NONE_STATED,
        "robots.ox.ac.uk/~vgg/data/flowers/102",
    ),
)
register(
    "flowers102_nas",
    photographs.flowers102_nas,
    default_size=224,
    about=About(
        "photographs of flowers (Oxford)",
        102,
        "6,507 + 1,682",
        "vary",
        _BENCHMARK,
        _NONE_STATED,
        "robots.ox.ac.uk/~vgg/data/flowers/102",
    ),
)
register(
    "stanford_cars",
    photographs.stanford_cars,
    default_size=224,
    about=About(
        "photographs of cars by make and model",
        196,
        "8,144 + 8,041",
        "vary",
        "published train and test",
        _NONE_STATED,
        _BROUGHT,
    ),
)
register(
    "sun397",
    photographs.sun397,
    default_size=224,
    about=About(
        "photographs of scenes",
        397,
        "19,850 + 19,850",
        "vary",
        "first partition of Xiao et al. 2010; without it stratified by kit",
        _NONE_STATED,
        "vision.princeton.edu/projects/2010/SUN",
    ),
)
register(
    "places365",
    photographs.places365,
    default_size=224,
    about=About(
        "photographs of scenes",
        365,
        "1,803,460 + 36,500",
        "256x256",
        "published train; test is the published validation set",
        _RESEARCH,
        "places2.csail.mit.edu",
    ),
)
register(
    "imagenet",
    photographs.imagenet,
    default_size=224,
    about=About(
        "photographs of objects (ILSVRC 2012)",
        1000,
        "1,281,167 + 50,000",
        "vary",
        "published train; test is the published validation set",
        _RESEARCH,
        _BROUGHT,
    ),
)
register(
    "imagenet120",
    photographs.imagenet120,
    default_size=224,
    about=About(
        "imagenet's images in the 120 classes of DADA's search (Li et al. 2020)",
        120,
        "about 154,000 + 6,000",
        "vary",
        "as imagenet",
        _RESEARCH,
        _BROUGHT,
    ),
)
