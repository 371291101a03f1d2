"""The architectures that come with numbacnn."""

from __future__ import annotations

from collections.abc import Iterator

from numbacnn.plugin.hookspecs import hookimpl
from numbacnn.plugin.specs import ArchitectureSpec

numbacnn_api = 1

# What there is, by module. An architecture is the attribute of that name.
SMALL = {
    "lenet": {"lenet5": "LeNet-5 (LeCun et al. 1998): two convolutions, three dense layers"},
    "cnn": {"cnn": "the textbook example: two convolutions with pooling, two dense layers"},
}
IMAGENET = {
    "vgg": {
        "vgg11": "VGG-11 (Simonyan & Zisserman 2015): 3 x 3 convolutions and poolings",
        "vgg13": "VGG-13 (Simonyan & Zisserman 2015)",
        "vgg16": "VGG-16 (Simonyan & Zisserman 2015)",
        "vgg19": "VGG-19 (Simonyan & Zisserman 2015)",
        "vgg11_bn": "VGG-11 with batch normalisation",
        "vgg13_bn": "VGG-13 with batch normalisation",
        "vgg16_bn": "VGG-16 with batch normalisation",
        "vgg19_bn": "VGG-19 with batch normalisation",
    },
    "resnet": {
        "resnet18": "ResNet-18 (He et al. 2016): residual blocks of two 3 x 3 convolutions",
        "resnet34": "ResNet-34 (He et al. 2016)",
        "resnet50": "ResNet-50 (He et al. 2016): residual bottlenecks",
        "resnet101": "ResNet-101 (He et al. 2016)",
        "resnet152": "ResNet-152 (He et al. 2016)",
        "resnext50_32x4d": "ResNeXt-50 32 x 4d (Xie et al. 2017): bottlenecks of 32 groups",
        "wide_resnet50_2": "Wide ResNet-50-2 (Zagoruyko & Komodakis 2016): bottlenecks twice as wide",
        "resnet50d": "ResNet-50-D (T. He et al. 2019): a stem of 3 x 3 convolutions, shortcuts that average",
    },
    "densenet": {
        "densenet121": "DenseNet-121 (Huang et al. 2017): every layer sees all layers before it in its stage",
        "densenet169": "DenseNet-169 (Huang et al. 2017)",
        "densenet201": "DenseNet-201 (Huang et al. 2017)",
    },
    "mobilenet": {
        "mobilenet_v1": "MobileNet (Howard et al. 2017): depthwise separable convolutions",
        "mobilenet_v2": "MobileNetV2 (Sandler et al. 2018): inverted residuals",
        "mobilenet_v3_small": "MobileNetV3-Small (Howard et al. 2019): with squeeze-and-excitation, found by search",
        "mobilenet_v3_large": "MobileNetV3-Large (Howard et al. 2019)",
    },
    "shufflenet": {"shufflenet_v2_x1_0": "ShuffleNetV2 (Ma et al. 2018): halves of the channels that change sides"},
    "xception": {"xception": "Xception (Chollet 2017): depthwise separable convolutions"},
    "convnext": {
        "convnext_tiny": "ConvNeXt-T (Liu et al. 2022): residual blocks in the manner of vision transformers",
        "convnext_small": "ConvNeXt-S (Liu et al. 2022)",
        "convnext_base": "ConvNeXt-B (Liu et al. 2022)",
        "convnext_large": "ConvNeXt-L (Liu et al. 2022)",
    },
}
OTHER = {
    "text_cnn": {"text_cnn": "Kim's network for sentences (2014): windows of three to five words, the maximum over time"},
}
SIZES = {"xception": (299, 299)}  # of images, where not 224 x 224
CIFAR = {
    "resnet20": "ResNet-20 for 32 x 32 images (He et al. 2016, section 4.2)",
    "resnet32": "ResNet-32 for 32 x 32 images (He et al. 2016, section 4.2)",
    "resnet44": "ResNet-44 for 32 x 32 images (He et al. 2016, section 4.2)",
    "resnet56": "ResNet-56 for 32 x 32 images (He et al. 2016, section 4.2)",
    "resnet110": "ResNet-110 for 32 x 32 images (He et al. 2016, section 4.2)",
}


@hookimpl
def numbacnn_architectures() -> Iterator[ArchitectureSpec]:
    package = __package__
    for module, variants in SMALL.items():
        for name, summary in variants.items():
            yield ArchitectureSpec(name, f"{package}.{module}:{name}", summary, input_size=(28, 28) if name == "lenet5" else None)
    for module, variants in IMAGENET.items():
        for name, summary in variants.items():
            factory = f"{package}.{module}:{name}"
            yield ArchitectureSpec(name, factory, summary, input_size=SIZES.get(name, (224, 224)), names=f"{package}.{module}:NAMES")
    for module, variants in OTHER.items():
        for name, summary in variants.items():
            yield ArchitectureSpec(name, f"{package}.{module}:{name}", summary, names=f"{package}.{module}:NAMES")
    for name, summary in CIFAR.items():
        yield ArchitectureSpec(name, f"{package}.resnet:{name}", summary, input_size=(32, 32), names=f"{package}.resnet:CIFAR_NAMES")
