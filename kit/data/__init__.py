"""Data sets as uint8 tensors on the device: disjoint train / val / test splits, and batches by one gather."""

from kit.data.batches import Batches
from kit.data.cache import Streamed
from kit.data.image import fit
from kit.data.load import data_root, load_dataset
from kit.data.own import datasets, describe, read_csv, read_folder, register, table
from kit.data.sets import ImageSet, ImageSets, Source, normalization, stratified_split, to_sets

__all__ = [
    "Batches",
    "ImageSet",
    "ImageSets",
    "Source",
    "Streamed",
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
