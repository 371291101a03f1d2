"""The architectures that come with numbacnn."""

from __future__ import annotations

from collections.abc import Iterator

from numbacnn.plugin.hookspecs import hookimpl
from numbacnn.plugin.specs import ArchitectureSpec, LayerSpec, LossSpec

numbacnn_api = 1

# What there is, by module. An architecture is the attribute of that name.
SMALL = {
    "lenet": {"lenet5": "LeNet-5 (LeCun et al. 1998): two convolutions, three dense layers"},
    "cnn": {"cnn": "the textbook example: two convolutions with pooling, two dense layers"},
}
IMAGENET = {
    "alexnet": {
        "alexnet": "AlexNet (Krizhevsky 2014): five convolutions, three dense layers",
        "alexnet_original": "AlexNet of 2012 (Krizhevsky et al.): two groups, local response normalisation",
    },
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
    "googlenet": {"googlenet": "GoogLeNet (Szegedy et al. 2015): modules of four branches side by side"},
    "inception": {"inception_v3": "Inception-v3 (Szegedy et al. 2016): larger convolutions as several small ones"},
    "squeezenet": {"squeezenet1_1": "SqueezeNet 1.1 (Iandola et al. 2016): few channels, then many, in 1.2 million parameters"},
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
    "regnet": {"regnet_y_400mf": "RegNetY-400MF (Radosavovic et al. 2020): widths by a formula, squeeze-and-excitation"},
    "mobilenet": {
        "mobilenet_v1": "MobileNet (Howard et al. 2017): depthwise separable convolutions",
        "mobilenet_v2": "MobileNetV2 (Sandler et al. 2018): inverted residuals",
        "mobilenet_v3_small": "MobileNetV3-Small (Howard et al. 2019): with squeeze-and-excitation, found by search",
        "mobilenet_v3_large": "MobileNetV3-Large (Howard et al. 2019)",
    },
    "efficientnet": {
        "efficientnet_b0": "EfficientNet-B0 (Tan & Le 2019): inverted residuals found by search",
        "efficientnet_b1": "EfficientNet-B1 (Tan & Le 2019): B0 scaled in depth, width and size of images",
        "efficientnet_b2": "EfficientNet-B2 (Tan & Le 2019)",
        "efficientnet_b3": "EfficientNet-B3 (Tan & Le 2019)",
        "efficientnet_b4": "EfficientNet-B4 (Tan & Le 2019)",
        "efficientnet_b5": "EfficientNet-B5 (Tan & Le 2019)",
        "efficientnet_b6": "EfficientNet-B6 (Tan & Le 2019)",
        "efficientnet_b7": "EfficientNet-B7 (Tan & Le 2019)",
        "efficientnet_lite0": "EfficientNet-Lite0: B0 for small devices, relu6 and no squeeze-and-excitation",
        "efficientnet_v2_s": "EfficientNetV2-S (Tan & Le 2021): larger convolutions in the first stages",
    },
    "mnasnet": {"mnasnet1_0": "MNASNet-B1 (Tan et al. 2019): inverted residuals found by a search on a phone"},
    "shufflenet": {"shufflenet_v2_x1_0": "ShuffleNetV2 (Ma et al. 2018): halves of the channels that change sides"},
    "xception": {"xception": "Xception (Chollet 2017): depthwise separable convolutions"},
    "convnext": {
        "convnext_tiny": "ConvNeXt-T (Liu et al. 2022): residual blocks in the manner of vision transformers",
        "convnext_small": "ConvNeXt-S (Liu et al. 2022)",
        "convnext_base": "ConvNeXt-B (Liu et al. 2022)",
        "convnext_large": "ConvNeXt-L (Liu et al. 2022)",
    },
}
SIZES = {  # of images, where not 224 x 224
    "capsnet": (28, 28),
    "alexnet_original": (227, 227),
    "inception_v3": (299, 299),
    "xception": (299, 299),
    "efficientnet_b1": (240, 240),
    "efficientnet_b2": (260, 260),
    "efficientnet_b3": (300, 300),
    "efficientnet_b4": (380, 380),
    "efficientnet_b5": (456, 456),
    "efficientnet_b6": (528, 528),
    "efficientnet_b7": (600, 600),
    "efficientnet_v2_s": (384, 384),
}
CIFAR = {
    "resnet20": "ResNet-20 for 32 x 32 images (He et al. 2016, section 4.2)",
    "resnet32": "ResNet-32 for 32 x 32 images (He et al. 2016, section 4.2)",
    "resnet44": "ResNet-44 for 32 x 32 images (He et al. 2016, section 4.2)",
    "resnet56": "ResNet-56 for 32 x 32 images (He et al. 2016, section 4.2)",
    "resnet110": "ResNet-110 for 32 x 32 images (He et al. 2016, section 4.2)",
}
OTHERS = {  # not images of a usual size, or not trained as usual
    "text_cnn": {"text_cnn": "Kim's network for sentences (2014): windows of three to five words, the maximum over time"},
    "capsnet": {"capsnet": "CapsNet (Sabour et al. 2017): capsules that agree by dynamic routing"},
    "resnet3d": {"r3d_18": "R3D-18 (Tran et al. 2018): ResNet-18 of convolutions over space and time, for clips"},
    "resnet1d": {"resnet1d": "ResNet for time series (Wang et al. 2017)"},
}
RECIPES = {"capsnet": {"loss": "margin", "optimizer": "adam", "rate": 1e-3}}
LAYERS = {
    "Squash": "vectors made shorter than one",
    "CapsuleRouting": "capsules that see capsules, by dynamic routing",
    "CapsuleLength": "lengths of vectors",
    "LongestCapsule": "zeros for all capsules but the longest",
}


@hookimpl
def numbacnn_layers() -> Iterator[LayerSpec]:
    for name, summary in LAYERS.items():
        yield LayerSpec(name, f"{__package__}.capsules:{name}", summary)


@hookimpl
def numbacnn_losses() -> Iterator[LossSpec]:
    yield LossSpec("margin", f"{__package__}.capsules:Margin", "lengths of capsules, with margins")


@hookimpl
def numbacnn_architectures() -> Iterator[ArchitectureSpec]:
    package = __package__
    for module, variants in SMALL.items():
        for name, summary in variants.items():
            yield ArchitectureSpec(name, f"{package}.{module}:{name}", summary, input_size=(28, 28) if name == "lenet5" else None)
    for module, variants in IMAGENET.items():
        for name, summary in variants.items():
            factory = f"{package}.{module}:{name}"
            names, size = f"{package}.{module}:NAMES", SIZES.get(name, (224, 224))
            yield ArchitectureSpec(name, factory, summary, input_size=size, names=names, pretrained=f"{package}.pretrained:records")
    for name, summary in CIFAR.items():
        yield ArchitectureSpec(name, f"{package}.resnet:{name}", summary, input_size=(32, 32), names=f"{package}.resnet:CIFAR_NAMES")
    for module, variants in OTHERS.items():
        for name, summary in variants.items():
            yield ArchitectureSpec(
                name,
                f"{package}.{module}:{name}",
                summary,
                input_size=SIZES.get(name),
                recipe=RECIPES.get(name, {}),
                names=f"{package}.{module}:NAMES",
                pretrained=f"{package}.pretrained:records",
            )
