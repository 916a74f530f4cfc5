"""Data sets as uint8 tensors on the device: disjoint train / val / test splits, and batches by one gather."""

from kit.data import catalog as _catalog  # registers the data sets that kit knows  # noqa: F401
from kit.data.batches import Batches
from kit.data.folder import read_folder
from kit.data.listing import read_csv
from kit.data.registry import data_root, datasets, describe, load_dataset, register, table
from kit.data.sets import ImageSet, ImageSets, normalization
from kit.data.source import Files, Source, fit, stratified_split, to_sets

__all__ = [
    "Batches",
    "Files",
    "ImageSet",
    "ImageSets",
    "Source",
    "data_root",
    "datasets",
    "describe",
    "fit",
    "load_dataset",
    "normalization",
    "read_csv",
    "read_folder",
    "register",
    "stratified_split",
    "table",
    "to_sets",
]
