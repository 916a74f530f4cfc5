"""Sets of photographs by name: where each lies, where its publisher offers it, and who reads it (kit.data.layouts)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torchvision import datasets as tv

from kit.data import layouts
from kit.data.archive import RAR_HELP
from kit.data.obtain import Absent, Remote, obtain
from kit.data.source import Files

EVENTS = "http://vision.stanford.edu/lijiali/event_dataset/event_dataset.rar"
INDOOR = "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar"
INDOOR_LISTS = "http://web.mit.edu/torralba/www"
SUN_PARTITIONS = "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"
# The commit of 2020 that holds the lists; the checksums are of the files in it.
BENCHMARK = "https://raw.githubusercontent.com/antoyang/NAS-Benchmark/c2758da73192d408aad458768f26d3537dd78c40/data"
BENCHMARK_MD5 = {
    "Sport8_train.csv": "b877c9076013110bceedd809467e469b",
    "Sport8_test.csv": "5388c4011880a511e8d72763c618c7d8",
    "MIT67_train1.csv": "99fbe2fbba2a0f36decbe656a48b48f2",
    "MIT67_train2.csv": "0c053beb2744d8bba95ce6e02a896b1b",
    "MIT67_train3.csv": "654d4aa3feea6fe7f8db1e4114d7ef97",
    "MIT67_train4.csv": "f243d825dddd33c1f4ed5a520fb7a28f",
    "MIT67_test.csv": "2458ce25423a87bf23ff2c28bf275932",
    "flowers102_train1.csv": "6baf446cd28aaa7cf5d8c9ef1b320d38",
    "flowers102_train2.csv": "0113e209ad289080b6785dd5282dd548",
    "flowers102_test.csv": "b50825a4aa2588f9a29b5d95f46798b9",
}


def sport8(root: Path, image_size: int | None = None) -> Files:
    """UIUC sports events (Li and Fei-Fei 2007). The archive is a RAR; images unpacked by hand into sport8/<class>/ do
    as well.
    """
    # No checksum of the archive is published: its images are counted.
    remotes = [
        Remote("event_dataset.rar", EVENTS, into="sport8", there=("sport8/event_img",)),
        *_benchmark_lists("Sport8", "sport8", needed=False),
    ]
    mend = (
        f"put event_dataset.rar into {root} (to unpack it: {RAR_HELP}), or its class folders into {root / 'sport8'}, "
        "and beside them Sport8_train.csv and Sport8_test.csv of NAS-Benchmark for the papers' split"
    )
    return _obtain("sport8", root, "sport8", layouts.sport8, remotes, mend)


def mit67(root: Path, image_size: int | None = None) -> Files:
    """MIT indoor scenes (Quattoni and Torralba 2009) with the authors' lists."""
    lists = [
        Remote(name, f"{INDOOR_LISTS}/{name}", unpack=False, into="mit67")
        for name in ("TrainImages.txt", "TestImages.txt")
    ]
    return _obtain(
        "mit67",
        root,
        "mit67",
        layouts.mit67,
        [_indoor(), *lists],
        _indoor_mend(root, "TrainImages.txt and TestImages.txt"),
    )


def mit67_nas(root: Path, image_size: int | None = None) -> Files:
    """MIT indoor scenes, all images, with the lists of NAS-Benchmark."""
    lists = _benchmark_lists("MIT67", "mit67")
    return _obtain(
        "mit67_nas",
        root,
        "mit67",
        layouts.mit67_nas,
        [_indoor(), *lists],
        _indoor_mend(root, "NAS-Benchmark's MIT67_*.csv"),
    )


def flowers102(root: Path, image_size: int | None = None) -> Files:
    """Oxford flowers (Nilsback and Zisserman 2008) with the authors' split."""
    return _obtain(
        "flowers102", root, "flowers-102", layouts.flowers102, _flowers(), _flowers_mend(root), also=("flowers102",)
    )


def flowers102_nas(root: Path, image_size: int | None = None) -> Files:
    """Oxford flowers with the lists of NAS-Benchmark."""
    remotes = [_flowers()[0], *_benchmark_lists("flowers102", "flowers-102")]
    return _obtain(
        "flowers102_nas",
        root,
        "flowers-102",
        layouts.flowers102_nas,
        remotes,
        _flowers_mend(root),
        also=("flowers102",),
    )


def stanford_cars(root: Path, image_size: int | None = None) -> Files:
    """Stanford cars (Krause et al. 2013). Its addresses are dead, so it must be brought: torchvision's or Kaggle's
    layout.
    """
    remotes = [
        Remote("cars_train.tgz", None, into="stanford_cars", there=_cars("cars_train")),
        Remote("cars_test.tgz", None, into="stanford_cars", there=_cars("cars_test")),
        Remote("car_devkit.tgz", None, into="stanford_cars", there=_cars("devkit", "car_devkit")),
        Remote(
            "cars_test_annos_withlabels.mat",
            None,
            unpack=False,
            into="stanford_cars",
            there=_cars(*(f"{place}cars_test_annos_withlabels.mat" for place in ("", "devkit/", "car_devkit/devkit/"))),
        ),
    ]
    mend = (
        f"its authors' addresses are dead: get the images elsewhere (such as Kaggle) and lay them out as {root}/stanford_cars/cars_train/*.jpg, "
        "cars_test/*.jpg, devkit/cars_meta.mat, devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat, or as "
        f"{root}/stanford_cars/train/<class>/ and test/<class>/; or put cars_train.tgz, cars_test.tgz, car_devkit.tgz and "
        f"cars_test_annos_withlabels.mat into {root}; or set root= or KIT_DATA to a folder that has stanford_cars/"
    )
    return _obtain("stanford_cars", root, "stanford_cars", layouts.stanford_cars, remotes, mend)


def sun397(root: Path, image_size: int | None = None) -> Files:
    """SUN397 (Xiao et al. 2010) with the first of the authors' partitions, as AutoHAS counts its images."""
    images = Remote("SUN397.tar.gz", tv.SUN397._DATASET_URL, tv.SUN397._DATASET_MD5, there=("SUN397/a",))
    # No checksum of the partitions is published: their lines are counted. Their lists lie in the archive without a
    # folder.
    lists = Remote(
        "Partitions.zip",
        SUN_PARTITIONS,
        into="SUN397/Partitions",
        there=("SUN397/Partitions", "SUN397/Training_01.txt"),
        needed=False,
    )
    mend = f"put SUN397.tar.gz (37 GB) and Partitions.zip into {root}, or set root= or KIT_DATA to a folder that has SUN397/"
    return _obtain("sun397", root, "SUN397", layouts.sun397, [images, lists], mend, also=("sun397",))


def places365(root: Path, image_size: int | None = None) -> Files:
    """Places365-Standard (Zhou et al. 2017), the images of 256x256 pixels."""
    places = tv.Places365
    train, val = places._IMAGES_META["train-standard", True], places._IMAGES_META["val", True]
    remotes = [
        Remote(file, places._BASE_URL + file, md5, into="places365", there=tuple(f"places365/{name}" for name in there))
        for (file, md5), there in (
            (places._DEVKIT_META["standard"], ("places365_train_standard.txt",)),
            (val, ("val_256",)),
            (train, ("data_256", "data_256_standard")),
        )
    ]
    mend = (
        f"put {', '.join(remote.file for remote in remotes)} (26 GB) into {root}, or set root= or KIT_DATA to a folder that has places365/ "
        "with data_256/, val_256/ and the lists"
    )
    return _obtain("places365", root, "places365", layouts.places365, remotes, mend)


def imagenet(root: Path, image_size: int | None = None) -> Files:
    """ILSVRC 2012 (Russakovsky et al. 2015), which everyone fetches with an account of their own."""
    return _obtain("imagenet", root, "imagenet", layouts.imagenet, [], _imagenet_mend(root))


def imagenet120(root: Path, image_size: int | None = None) -> Files:
    """The 120 classes of DADA's reduced ImageNet, on which DAAS searches; its images lie where those of imagenet
    lie.
    """
    return _obtain("imagenet120", root, "imagenet", layouts.imagenet120, [], _imagenet_mend(root))


def _obtain(
    name: str,
    root: Path,
    folder: str,
    layout: Callable[[Path], Files],
    remotes: list[Remote],
    mend: str,
    also: tuple[str, ...] = (),
) -> Files:
    """Read `folder` under root, or another folder that torchvision or the user calls differently."""
    places = [root / place for place in (folder, *also)]

    def read() -> Files:
        reasons = {}
        for place in places:
            try:
                return layout(place)
            except Absent as absent:
                reasons[place] = str(absent)
        raise Absent("; ".join(reasons[place] for place in places if place.is_dir()) or reasons[places[0]])

    return obtain(name, root, read, remotes, [str(place) for place in places], mend)


def _benchmark_lists(prefix: str, into: str, needed: bool = True) -> list[Remote]:
    return [
        Remote(name, f"{BENCHMARK}/{name}", md5, unpack=False, into=into, needed=needed)
        for name, md5 in BENCHMARK_MD5.items()
        if name.startswith(prefix)
    ]


def _indoor() -> Remote:
    # No checksum is published: the listed images must be there.
    return Remote("indoorCVPR_09.tar", INDOOR, into="mit67", there=("mit67/Images", "mit67/indoorCVPR_09"))


def _indoor_mend(root: Path, lists: str) -> str:
    return (
        f"put indoorCVPR_09.tar (2.4 GB), {lists} into {root}, or its folder Images/ and the lists into {root / 'mit67'}, "
        "or set root= or KIT_DATA to a folder that has mit67/"
    )


def _flowers() -> list[Remote]:
    flowers = tv.Flowers102
    files = [flowers._file_dict[key] for key in ("image", "label", "setid")]
    return [
        Remote(
            file,
            flowers._download_url_prefix + file,
            md5,
            unpack=file.endswith(".tgz"),
            into="flowers-102",
            there=("flowers-102/jpg",) if file.endswith(".tgz") else (),
        )
        for file, md5 in files
    ]


def _flowers_mend(root: Path) -> str:
    return f"put 102flowers.tgz, imagelabels.mat and setid.mat into {root}, or set root= or KIT_DATA to a folder that has flowers-102/"


def _cars(*names: str) -> tuple[str, ...]:
    return tuple(f"stanford_cars/{name}" for name in names)


def _imagenet_mend(root: Path) -> str:
    return (
        f"fetch it with an account at image-net.org and lay it out as {root}/imagenet/train/<WordNet id>/*.JPEG and "
        f"{root}/imagenet/val/<WordNet id>/*.JPEG (or val/*.JPEG with LOC_val_solution.csv, or with the devkit's folder "
        "ILSVRC2012_devkit_t12, in imagenet/); a link to where it lies will do; or set root= or KIT_DATA to a folder that has imagenet/"
    )
