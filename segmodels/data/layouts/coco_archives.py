"""Where COCO and COCO-Stuff are published."""

from segmodels.data.layouts.base import Archive

AT = "http://images.cocodataset.org"
STATED = "tensorflow/datasets, url_checksums/coco.txt"
IMAGES = (
    Archive(
        f"{AT}/zips/train2017.zip",
        size=19336861798,
        sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        stated=STATED,
    ),
    Archive(
        f"{AT}/zips/val2017.zip",
        size=815585330,
        sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        stated=STATED,
    ),
)
OBJECTS = Archive(
    f"{AT}/annotations/annotations_trainval2017.zip",
    size=252907541,
    sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    stated=STATED,
)
PANOPTIC = Archive(
    f"{AT}/annotations/panoptic_annotations_trainval2017.zip",
    size=860725834,
    sha256="c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
    stated=STATED,
)
STUFF = Archive(
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
    into="stuffthingmaps/",
)
