"""Data sets as uint8 tensors on the device: disjoint train / val / test splits, and batches by one gather."""

from kit.data.cache import Streamed
from kit.data.image import fit
from kit.data.load import data_root, load_dataset
from kit.data.own import datasets, describe, read_csv, read_folder, register
from kit.data.sets import Batches, ImageSet, ImageSets, digest, drawn, normalization, stratified_split
from kit.data.source import Source, to_sets
