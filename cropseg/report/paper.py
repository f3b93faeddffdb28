"""Every number of the paper's Tables 1-14 as it is printed there (arXiv 2606.00676), for a reader to hold ours against.

Cells are strings, since "0.750" and 0.75 are not the same statement. Rows of classes stand in the order of their ids,
whatever order the paper prints them in. Where a symbol got lost in the text that is at hand, the cell is :data:`LOST`;
what other figures of the paper give back stands in :data:`RECOVERED`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LOST: Final = "(lost)"
"""A formula or symbol that the text at hand does not hold."""

ABSENT: Final = "–"
"""The paper's own sign for a class without pixels, and for no keyword."""

CLASSES: Final = (
    "background",
    "maize",
    "rapeseed",
    "wheat",
    "barley",
    "oats",
    "sunflower",
    "sugar beet",
    "soybean",
    "potato",
    "pasture",
)
"""Target classes by id (Table 1)."""


@dataclass(frozen=True)
class Printed:
    """A table of the paper.

    Attributes:
        number: Its number there, the source of every figure in it.
        caption: What it shows, in a few words of ours.
        columns: Headings; the first column names the row.
        rows: Cells as printed.
    """

    number: int
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def row(self, name: str) -> tuple[str, ...]:
        """The cells behind the first one of the row called ``name``; dashes where the paper has no such row."""
        found = next((row[1:] for row in self.rows if row[0] == name), None)
        return (ABSENT,) * (len(self.columns) - 1) if found is None else found


def value(cell: str) -> float:
    """The number that a cell prints, such as ``6,870``, ``44.216%`` (0.44216) or ``0.7665``; NaN for a dash."""
    if cell == ABSENT:
        return float("nan")
    plain = cell.replace(",", "")
    return float(plain.removesuffix("%")) / 100 if plain.endswith("%") else float(plain)


TABLE_1: Final = Printed(
    1,
    "Target taxonomy and its keywords",
    ("class", "inclusion keywords", "exclusion keywords"),
    (
        ("background", "Non-target, undefined, or discarded areas", "–"),
        ("maize", "maize, corn", "–"),
        ("rapeseed", "rapeseed, rape seed, winter rape, oilseed rape", "grape"),
        ("wheat", "wheat, triticale, rye", "buckwheat"),
        ("barley", "barley", "–"),
        ("oats", "oats", "–"),
        ("sunflower", "sunflower", "–"),
        ("sugar beet", "sugar beet, beet", "fodder beet, beetroot"),
        ("soybean", "soybean, soy beans, soy", "–"),
        ("potato", "potato", "–"),
        ("pasture", "pasture, grassland, meadow, arable grass, clover, lucerne, alfalfa", "–"),
    ),
)

TABLE_2: Final = Printed(
    2,
    "Patches per country",
    ("country", "patches", "share"),
    (
        ("Austria", "29,774", "44.216%"),
        ("Germany", "13,307", "19.762%"),
        ("France", "9,028", "13.407%"),
        ("Slovakia", "8,358", "12.412%"),
        ("Czech Republic", "6,870", "10.202%"),
        ("Total", "67,337", "100.000%"),
    ),
)

TABLE_3: Final = Printed(
    3,
    "Pixels per class, and patches that hold it",
    ("class", "pixels", "of pixels", "patches", "of patches"),
    (
        ("background", "1,400,769,381", "31.742%", "67,337", "100.000%"),
        ("maize", "484,866,662", "10.987%", "63,526", "94.340%"),
        ("rapeseed", "254,469,439", "5.766%", "53,284", "79.130%"),
        ("wheat", "1,031,982,204", "23.385%", "66,939", "99.409%"),
        ("barley", "373,327,263", "8.460%", "64,568", "95.888%"),
        ("oats", "59,995,197", "1.360%", "27,221", "40.425%"),
        ("sunflower", "93,413,035", "2.117%", "27,087", "40.226%"),
        ("sugar beet", "180,744,275", "4.096%", "38,593", "57.313%"),
        ("soybean", "108,360,177", "2.455%", "23,771", "35.302%"),
        ("potato", "96,355,478", "2.183%", "41,103", "61.041%"),
        ("pasture", "328,714,521", "7.449%", "59,807", "88.817%"),
    ),
)

LABELLED_PIXELS: Final = "4,412,997,632"
"""All pixels of Table 3, as section 2.4 gives their sum."""

TABLE_4: Final = Printed(
    4,
    "Class weights of the cross-entropy",
    ("class", "weight"),
    (
        ("background", "0.25"),
        ("maize", "1.00"),
        ("rapeseed", "1.50"),
        ("wheat", "0.75"),
        ("barley", "1.00"),
        ("oats", "3.00"),
        ("sunflower", "2.50"),
        ("sugar beet", "1.50"),
        ("soybean", "2.00"),
        ("potato", "3.00"),
        ("pasture", "1.00"),
    ),
)

TABLE_5: Final = Printed(
    5,
    "Training configuration",
    ("parameter", "value"),
    (
        ("Model class", "UNet4LevelsGN"),
        ("Levels", "4"),
        ("Input bands", "10 Sentinel-2 bands"),
        ("Input patch size", LOST),
        ("Number of classes", "11"),
        ("Base channels", "48"),
        ("Normalization", "Group Normalization"),
        ("Upsampling mode", "Bilinear"),
        ("Bottleneck dropout", "0.1"),
        ("Decoder dropout", "0.0"),
        ("Trainable parameters", "17,660,027"),
        ("Batch size", "2"),
        ("Optimizer", "Adam"),
        ("Initial learning rate", LOST),
        ("LR reduction factor", "0.5"),
        ("Maximum epochs", "260"),
        ("Best checkpoint epoch", "179"),
        ("Checkpoint size", "70.66 MB"),
        ("Cross-entropy weighting", "Class-weighted"),
        ("Dice weight", "0.4"),
        ("Dice background", "Excluded"),
        ("Ignored label", "None"),
    ),
)

RECOVERED: Final = {"Input patch size": "256 × 256"}
"""Cells of Table 5 that other figures give: 4,412,997,632 pixels / 67,337 patches (Tables 2 and 3) = 256²."""

BESIDE_TABLE_5: Final = {
    "Highest validation mIoU": "0.7639, epoch 195",
    "Other terms of the loss": "none",
    "Scheduler": "On a plateau of the validation loss",
    "Augmentation": "Flips and quarter turns",
    "Split": "Patch by patch",
}
"""What section 3.1 and Eq. 1 tell of the training beyond Table 5, in our words."""

TABLE_6: Final = Printed(
    6,
    "Hardware of the training",
    ("component", "specification"),
    (
        ("GPU", "NVIDIA GeForce GTX 1080 Ti"),
        ("GPU memory", "11 GB"),
        ("CPU", "Intel Core i7-8700 @ 3.20 GHz"),
        ("CPU cores / threads", "6 cores / 12 threads"),
        ("RAM", "31 GiB"),
        ("Operating system", "Ubuntu 24.04.4 LTS"),
        ("GPU driver", "580.126.09"),
        ("CUDA version", "13.0"),
    ),
)

TABLE_7: Final = Printed(
    7,
    "Labels of DACIA5 in the target taxonomy",
    ("class", "DACIA5 labels", "id"),
    (
        ("maize", "Corn and corn silage", "1"),
        ("rapeseed", "Rapeseed", "2"),
        ("wheat", "Winter wheat and spring wheat", "3"),
        ("sunflower", "Sunflower", "6"),
        ("sugar beet", "Sugar beet", "7"),
        ("soybean", "Soybean", "8"),
        ("potato", "Potato-related classes", "9"),
        ("pasture", "Temporal grassland, permanent grassland, and alfalfa-related classes", "10"),
        ("ignored", "Peas and labels without a reliable correspondence", "255"),
    ),
)

DACIA5_LEGEND: Final = {
    0: "unlabelled",
    1: "winter wheat",
    2: "spring wheat",
    3: "corn",
    4: "peas",
    5: "potato",
    6: "potato",
    7: "potato",
    8: "potato",
    9: "sugar beet",
    10: "temporal grassland",
    11: "alfalfa",
    12: "permanent grassland",
    13: "corn silage",
    14: "soybean",
    15: "alfalfa",
    16: "winter rapeseed",
    17: "sunflower",
}
"""DACIA5's own codes, in the words of its legend."""

DACIA5_CODES: Final = {
    **{3: "maize", 13: "maize", 16: "rapeseed", 1: "wheat", 2: "wheat", 17: "sunflower", 9: "sugar beet"},
    **{14: "soybean", 5: "potato", 6: "potato", 7: "potato", 8: "potato"},
    **{10: "pasture", 11: "pasture", 12: "pasture", 15: "pasture", 4: "ignored"},
}
"""Table 7 by code: the legend's words that it names."""

TABLE_8: Final = Printed(
    8,
    "Labels of PASTIS in the target taxonomy",
    ("PASTIS id", "PASTIS label", "class", "id"),
    (
        ("0", "Background", "background", "0"),
        ("1", "Meadow", "pasture", "10"),
        ("2", "Soft winter wheat", "wheat", "3"),
        ("3", "Corn", "maize", "1"),
        ("4", "Winter barley", "barley", "4"),
        ("5", "Winter rapeseed", "rapeseed", "2"),
        ("6", "Spring barley", "barley", "4"),
        ("7", "Sunflower", "sunflower", "6"),
        ("8", "Grapevine", "ignored", "255"),
        ("9", "Beet", "sugar beet", "7"),
        ("10", "Winter triticale", "wheat", "3"),
        ("11", "Winter durum wheat", "wheat", "3"),
        ("12", "Fruits, vegetables, and flowers", "ignored", "255"),
        ("13", "Potatoes", "potato", "9"),
        ("14", "Leguminous fodder", "pasture", "10"),
        ("15", "Soybeans", "soybean", "8"),
        ("16", "Orchard", "ignored", "255"),
        ("17", "Mixed cereal", "ignored", "255"),
        ("18", "Sorghum", "ignored", "255"),
        ("19", "Void label", "ignored", "255"),
    ),
)

TABLE_9: Final = Printed(
    9,
    "Evaluation sets",
    ("evaluation set", "category", "dataset", "patches"),
    (
        ("internal", "internal", "EuroCrops test split", "6652"),
        ("be_vlg_2021", "in-domain external", "BE_VLG_2021", "7093"),
        ("be_wal_2021", "in-domain external", "BE_WAL_2021", "3613"),
        ("dacia5", "cross-dataset external", "DACIA5", "778"),
        ("pastis", "cross-dataset external", "PASTIS", "1955"),
    ),
)

TABLE_10: Final = Printed(
    10,
    "Scores per class on the internal test part",
    ("class", "IoU", "class acc.", "support, pixels"),
    (
        ("background", "0.7352", "0.7647", "136,879,857"),
        ("maize", "0.8334", "0.9404", "47,844,217"),
        ("rapeseed", "0.8161", "0.9317", "26,035,062"),
        ("wheat", "0.8075", "0.9225", "102,534,883"),
        ("barley", "0.7045", "0.8457", "37,137,182"),
        ("oats", "0.6583", "0.9042", "5,832,341"),
        ("sunflower", "0.7887", "0.9476", "9,282,741"),
        ("sugar beet", "0.8553", "0.9507", "18,081,916"),
        ("soybean", "0.7700", "0.9352", "10,796,959"),
        ("potato", "0.7599", "0.9364", "9,469,228"),
        ("pasture", "0.7021", "0.8990", "32,051,086"),
    ),
)

MEAN_CLASS_ACCURACY: Final = "0.9072"
"""Of the internal test part, in section 4.1; the recalls of Table 10 average to 0.9071."""

TABLE_11: Final = Printed(
    11,
    "Models on the internal test part",
    ("model", "feature type", "spatial context", "mIoU all", "pixel acc."),
    (
        ("Random Forest", "Spectral bands", "No", "0.2521", "0.3975"),
        ("Random Forest", "Spectral + local statistics", "Handcrafted", "0.2597", "0.4027"),
        ("U-Net", "Multispectral patch", "Learned", "0.7665", "0.8693"),
    ),
)

FOREST_IOU: Final = {
    "background": "0.4317",
    "maize": "0.4696",
    "wheat": "0.4520",
    "barley": "0.2501",
    "oats": "0.0820",
    "sunflower": "0.2385",
    "sugar beet": "0.4812",
    "soybean": "0.2050",
    "potato": "0.1574",
}
"""IoU of the spectral forest on the internal test part, of the nine classes that section 4.2 tells."""

TABLE_12: Final = Printed(
    12,
    "Unseen regions",
    ("evaluation set", "patches", "all-pixel mIoU", "all-pixel acc.", "crop-pixel mIoU present", "crop-pixel acc."),
    (
        ("be_vlg_2021", "7093", "0.3673", "0.7507", "0.4427", "0.8194"),
        ("be_wal_2021", "3613", "0.3836", "0.7473", "0.4944", "0.7902"),
    ),
)

TABLE_13: Final = Printed(
    13,
    "Cross-dataset evaluation",
    ("protocol", "patches", "mIoU all", "mIoU present", "pixel acc."),
    (
        ("DACIA5, all valid pixels", "778", "0.1505", "0.1839", "0.5325"),
        ("DACIA5, labelled crop pixels", "778", "0.2383", "0.3277", "0.5509"),
        ("PASTIS, labelled crop pixels", "1955", "0.1189", "0.1453", "0.3656"),
    ),
)

TABLE_14: Final = Printed(
    14,
    "Cross-dataset evaluation per class, labelled crop pixels",
    ("class", "DACIA5 IoU", "DACIA5 acc.", "PASTIS IoU", "PASTIS acc.", "DACIA5 support", "PASTIS support"),
    (
        ("maize", "0.5883", "0.7902", "0.4557", "0.6891", "2,266,208", "3,423,989"),
        ("rapeseed", "0.4341", "0.4855", "0.0911", "0.1163", "543,364", "699,069"),
        ("wheat", "0.5619", "0.6152", "0.2967", "0.4465", "3,344,695", "3,329,186"),
        ("barley", "–", "–", "0.0679", "0.1072", "–", "1,015,725"),
        ("sunflower", "0.0240", "0.3134", "0.0063", "0.0066", "24,024", "358,357"),
        ("sugar beet", "0.3340", "0.3474", "0.1132", "0.1334", "1,806,784", "321,262"),
        ("soybean", "0.2482", "0.3544", "0.0117", "0.0138", "461,432", "415,684"),
        ("potato", "0.0942", "0.0982", "0.0176", "0.0325", "631,207", "98,177"),
        ("pasture", "0.3370", "0.5997", "0.2473", "0.2908", "574,014", "7,456,450"),
    ),
)

TABLES: Final = (
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_7,
    TABLE_8,
    TABLE_9,
    TABLE_10,
    TABLE_11,
    TABLE_12,
    TABLE_13,
    TABLE_14,
)
