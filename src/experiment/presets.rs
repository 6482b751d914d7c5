//! The presets that come with the program, and what the data of one are like when they are whole.

use serde::{Deserialize, Serialize};

/// A preset: settings of a run under a name.
pub struct Preset {
    /// Under which `perennial run` and [`Config::find`](crate::Config::find) find it.
    pub name: &'static str,
    /// What kind of experiment it is.
    pub group: &'static str,
    /// One line for `perennial list presets`.
    pub(crate) summary: &'static str,
    pub(crate) toml: &'static str,
}

macro_rules! preset {
    ($group:ident, $name:literal, $summary:literal) => {
        Preset {
            name: $name,
            group: $group,
            summary: $summary,
            toml: include_str!(concat!("../../presets/", $name, ".toml")),
        }
    };
}

const BUNDLED_DATA: &str = "bundled";
const CLASSES: &str = "class-incremental";
const DOMAINS: &str = "domain-incremental";
const TIME: &str = "time-continual";
const ZERO_SHOT: &str = "zero-shot";

/// All of them. A new one is a file in `presets/` and a row here.
pub const PRESETS: [Preset; 23] = [
    preset!(BUNDLED_DATA, "emoji-pretrain", "train a small CLIP from scratch on the captions of three older vendors"),
    preset!(BUNDLED_DATA, "emoji-cil", "five newer vendors in 10 tasks of classes (class-incremental)"),
    preset!(BUNDLED_DATA, "emoji-cil-balanced", "the same with as many drawings of every class"),
    preset!(BUNDLED_DATA, "emoji-dil", "five newer vendors, one after the other (domain-incremental)"),
    preset!(BUNDLED_DATA, "emoji-tic", "five newer vendors by the years in which emoji appeared (time-continual)"),
    preset!(CLASSES, "cifar100-cil", "CIFAR-100 in 10 tasks of 10 classes"),
    preset!(CLASSES, "cifar100-dytox", "the same in the class order of DyTox, for Continual-CLIP's figures"),
    preset!(CLASSES, "imagenet1k-cil", "ImageNet-1k in 10 tasks of 100 classes"),
    preset!(DOMAINS, "domainnet-dil", "the six domains of DomainNet, from real to clipart"),
    preset!(TIME, "tic-yfcc", "TiC-YFCC: pictures of Flickr in 4 periods, 2004 to 2014"),
    preset!(TIME, "tic-redcaps", "TiC-RedCaps: pictures of Reddit in 4 years, 2017 to 2020"),
    preset!(TIME, "tic-datacomp-medium", "TiC-DataComp, medium: 7 periods to 2022, ViT-B-32 from scratch"),
    preset!(TIME, "tic-datacomp-large", "TiC-DataComp, large: 7 periods to 2022, ViT-B-16 from scratch"),
    preset!(TIME, "tic-datacomp-xlarge", "TiC-DataComp, xlarge: 7 periods to 2022, ViT-B-16 from scratch"),
    preset!(ZERO_SHOT, "cifar10", "classification of CIFAR-10's tests"),
    preset!(ZERO_SHOT, "cifar100", "classification of CIFAR-100's tests"),
    preset!(ZERO_SHOT, "imagenet", "classification of ImageNet-1k's validation pictures"),
    preset!(ZERO_SHOT, "imagenet-v2", "classification of ImageNet-V2 (matched frequency)"),
    preset!(ZERO_SHOT, "imagenet-r", "classification of ImageNet-R: renditions of 200 classes"),
    preset!(ZERO_SHOT, "imagenet-sketch", "classification of ImageNet-Sketch"),
    preset!(ZERO_SHOT, "imagenet-a", "classification of ImageNet-A: natural adversarial pictures of 200 classes"),
    preset!(ZERO_SHOT, "flickr30k", "retrieval on Flickr30k's tests, five captions a picture"),
    preset!(ZERO_SHOT, "coco", "retrieval on COCO's tests of 2014 (Karpathy's split), five captions a picture"),
];

/// What a preset's data are like when they are whole: `[expected]` in its file. What is 0 or empty is not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expected {
    /// Training samples.
    pub train: usize,
    /// Test samples; a table's rows where a picture has several captions.
    pub test: usize,
    /// Classes of the whole data set.
    pub classes: usize,
    /// Which classes: a bundled list or a file, as for `stream.class_order`.
    pub class_list: String,
}

impl Expected {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Expected::default()
    }
}
