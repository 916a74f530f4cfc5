"""Data sets as uint8 tensors on the device: disjoint train / val / test splits, and batches by one gather."""

from kit.data import named
from kit.data.image import Streamed, fit
from kit.data.load import DATASETS, Source, datasets, load_dataset, read_csv, read_folder, register, to_sets
from kit.data.sets import Batches, ImageSet, ImageSets, digest, drawn, normalization, part_of, stratified_split
