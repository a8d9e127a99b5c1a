"""The methods' configuration: frozen dataclasses, filled from presets, task files and the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastuda.data.config import Augment
from fastuda.methods.bounds import check_bounds
from fastuda.models.config import ModelConfig

Norm = Literal["same", "trained", "frozen"]


@dataclass(frozen=True)
class OptimiserConfig:
    """Optimiser of the segmentation network, the same in every stage."""

    name: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9  # of SGD
    weight_decay: float = 1e-4
    classifier_factor: float = 10.0  # learning rate of the classifier over that of the backbone

    def __post_init__(self) -> None:
        check_bounds(self, momentum="share", weight_decay="not negative", classifier_factor="not negative")


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of one stage."""

    iterations: int
    learning_rate: float  # of the backbone at the first iteration
    horizon: float = 1.0  # iterations at which the polynomial schedule would reach 0, over ``iterations``
    ramp: int = 0  # iterations over which the learning rate first increases linearly
    batch: int = 4  # images of each domain a step

    def __post_init__(self) -> None:
        check_bounds(
            self,
            iterations="not negative",
            learning_rate="not negative",
            horizon="at least 1",
            ramp="not negative",
            batch="at least 1",
        )


@dataclass(frozen=True)
class Views:
    """How training images are augmented."""

    source: Augment = Augment()
    target: Augment = Augment()
    self_training: Augment = Augment()  # of target images with pseudo labels
    rare_first: bool = False  # draw source images with weight 1/log(1.01 + class frequency)


@dataclass(frozen=True)
class WarmUpConfig:
    """Supervised training on the source: cross entropy + Lovász-softmax (SDCA Eq. 17)."""

    schedule: Schedule = Schedule(20_000, 2.5e-4)
    lovasz: float = 0.75  # weight λ_lov, used in every stage that sees source labels
    lovasz_at: Literal["label", "logits"] = "label"  # resolution; "logits" is cheaper where they have a small stride

    def __post_init__(self) -> None:
        check_bounds(self, lovasz="not negative")


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Copies of a target image whose mean softmax gives its pseudo labels; the papers use the image alone."""

    __test__ = False  # not for pytest, which collects classes of such a name

    flip: bool = False  # the image and its mirror image
    scales: tuple[float, ...] = (1.0,)  # at these sizes, as factors of the image's own

    def __post_init__(self) -> None:
        check_bounds(self, scales="positive")


@dataclass(frozen=True)
class SelfTrainingConfig(TestTimeAugmentation):
    """Rounds of fixed pseudo labels on the target training images (SDCA Eq. 19-20)."""

    schedule: Schedule = Schedule(20_000, 2.5e-4)  # of one round
    rounds: int = 1  # the labels are made anew before each; the papers use one
    quantile: float = 0.5  # a class's threshold is this quantile of its confidence: the paper's median
    threshold_cap: float = 1.0  # upper bound of the thresholds (released: 0.9)
    source: bool = False  # keep the supervised source loss beside the pseudo labels (the paper: target only)
    restart: bool = False  # from the initial weights instead of the adapted ones (released)
    norm: Norm = "same"  # batch norm's mode in this stage

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, rounds="not negative", quantile="share", threshold_cap="share")


@dataclass(frozen=True)
class SDCAConfig:
    """Semantic distribution-aware contrastive adaptation.

    The paper is silent about the temperature and about normalisation; the defaults are those of the released code:
    with unit vectors at 100 the bound shapes the features gently, and a sharp temperature was seen to do harm.
    """

    schedule: Schedule = Schedule(40_000, 2.5e-4)
    covariance: Literal["full", "diag"] = "full"
    temperature: float = 100.0  # τ
    normalize: bool = True  # L2-normalise features, means and covariances inside the loss
    features: float = 1.0  # weight λ_feat of the bound on the features
    outputs: float = 1.0  # weight λ_out of the bound on the logits
    confidence: float = 0.9  # δ: target pixels below are left out of the bound
    norm: Norm = "same"  # batch norm's mode from here on; "trained" shares one set of statistics between the domains
    self_training: SelfTrainingConfig = SelfTrainingConfig()

    def __post_init__(self) -> None:
        check_bounds(self, temperature="positive", features="not negative", outputs="not negative", confidence="share")


@dataclass(frozen=True)
class AdversarialConfig:
    """Output-space adversarial alignment (AdaptSegNet), on the softmax at the network's own resolution.

    The released code discriminates maps of the image's size, five strides of 2 deep: at a network's stride fewer do.
    """

    schedule: Schedule = Schedule(20_000, 2.5e-4)
    weight: float = 0.001  # λ_adv
    learning_rate: float = 1e-4  # of the discriminator, which Adam trains
    width: int = 64  # channels of its first convolution
    depth: int = 4  # its convolutions, each of stride 2

    def __post_init__(self) -> None:
        check_bounds(self, weight="not negative", learning_rate="not negative", width="at least 1", depth="at least 1")


@dataclass(frozen=True)
class SPCLConfig:
    """Semantic prototype contrastive learning.

    The paper is silent about the temperature; the default is that of the released code, as for SDCA.
    """

    adversarial: AdversarialConfig = AdversarialConfig()
    schedule: Schedule = Schedule(40_000, 2.5e-4)
    momentum: float = 0.1  # α: weight of the old prototype in an update; 1 fixes the prototypes
    temperature: float = 100.0  # τ
    weight: float = 1.0  # λ of both domains' contrast
    confidence_cap: float = 0.9  # upper bound of the online thresholds σ_c
    right_only: bool = False  # contrast only source pixels that are predicted rightly (released)
    norm: Norm = "same"  # batch norm's mode in the contrast stage
    self_training: SelfTrainingConfig = SelfTrainingConfig(threshold_cap=0.9)

    def __post_init__(self) -> None:
        check_bounds(self, momentum="share", temperature="positive", weight="not negative", confidence_cap="share")


@dataclass(frozen=True)
class Portions:
    """The share of the target's pixels that a round labels."""

    portion: float = 0.2  # p: share of each class that is labelled in the first round
    portion_step: float = 0.05  # and more in each further one
    portion_most: float = 0.5
    threshold_cap: float = 1.0  # upper bound of the thresholds k_c; below 1, sure classes are labelled almost whole
    balanced: bool = True  # p of each class's pixels (CBST); False: of all pixels, whatever their classes (ablation)

    def __post_init__(self) -> None:
        check_bounds(self, portion="share", portion_step="share", portion_most="share", threshold_cap="share")


@dataclass(frozen=True)
class DRSLConfig(TestTimeAugmentation, Portions):
    """Distribution regularised self-supervised learning; rounds of pseudo labels with class-balanced selection.

    Where the paper is silent: width of the embedding, α, N_e and the number of rounds. Their defaults are this
    package's; 256 channels are DeepLab's usual width, and unit margins fit modes at distances of about 1.
    """

    schedule: Schedule = Schedule(2_000, 5e-5)  # of one round
    rounds: int = 4
    channels: int = 256  # d̂ of the embeddings
    modes: int = 3  # M of each class
    per_class: int = 300  # T_e: embeddings drawn of each class and image
    sigma2: float = 0.5  # σ², the modes' variance
    square_distance: bool = False  # exp(-D²/2σ²), as the text prints, for exp(-D/2σ²)
    margin: float = 1.0  # α of L_emb, and of L_mcl
    embedding: float = 0.25  # weight β
    classification: float = 0.1  # weight η
    consistency: float = 0.1  # weight γ, of drsl+ alone
    triplets: int = 1024  # N_e: target embeddings a step for which partners are drawn

    # The swap stands in for translated images: 0 is what one sets where data.source.translated gives them.
    style: float = 0.5  # share of source images shown in the target's low frequencies (FDA); 0 = none

    style_beta: float = 0.01  # half side of the swapped square over the image's shorter side
    norm: Norm = "same"  # batch norm's mode in the rounds

    def __post_init__(self) -> None:
        TestTimeAugmentation.__post_init__(self)
        Portions.__post_init__(self)
        check_bounds(
            self,
            rounds="not negative",
            channels="at least 1",
            modes="at least 1",
            per_class="at least 1",
            sigma2="positive",
            margin="not negative",
            embedding="not negative",
            classification="not negative",
            consistency="not negative",
            triplets="at least 1",
            style="share",
            style_beta="half",
        )


@dataclass(frozen=True)
class MLSLConfig(Portions):
    """Multi-level self-learning: pseudo labels from independent patches (SISC), weak image labels (PWL).

    Where the paper is silent: p and the number of rounds; their defaults are CBST's schedule. The classes of a target
    image come from the labels of all its pixels, not from the selected ones alone, as h_s does on the source.
    """

    schedule: Schedule = Schedule(3_000, 1e-4, batch=2)  # of one round
    rounds: int = 6
    patches: int = 50  # K random patches of an image (released: 25); 0: the whole image alone (ablation)
    patch: tuple[int, int] = (512, 512)  # their height and width
    patch_batch: int = 8  # patches in one batch of the network
    whole_image: bool = False  # the whole image as one more vote (released)
    presence: float = 0.025  # λ_Fcl of the image-level loss; 0 is SISC alone
    head_width: int = 2048  # channels of the image-level head
    least_share: float = 0.05  # η: a class is present if it covers more than this part of its mean share on the source
    norm: Norm = "same"  # batch norm's mode in the rounds

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(
            self,
            rounds="not negative",
            patches="not negative",
            patch="at least 1",
            patch_batch="at least 1",
            presence="not negative",
            head_width="at least 1",
            least_share="share",
        )


@dataclass(frozen=True)
class CPSLConfig:
    """Class-balanced pixel-level self-labelling.

    Where the paper is silent: α of the class distribution, strengths of the strong view, schedules. Features are those
    that the classifier gets, of the network's width; prototypes are compared by cosines.
    """

    schedule: Schedule = Schedule(80_000, 1e-4)
    head_factor: float = 5.0  # learning rate of the self-labelling head over that of the backbone
    momentum: float = 0.999  # of the moving averages of network and head
    samples: int = 512  # M pixels an image (released: 256)
    balanced: bool = True  # drawn by the image's class distribution, Eq. 8-9 (released: False, uniformly)
    bank: int = 65_536  # features of earlier pixels
    temperature: float = 0.08  # τ
    epsilon: float = 0.05  # ε of the assignment
    iterations: int = 3  # of Sinkhorn
    share_momentum: float = 0.999  # α of the class distribution, Eq. 11 (released: 1, it stays)
    cross_entropy: float = 1.0  # weight of the target's cross entropy, Eq. 2 (released: 0.1)
    reverse_cross_entropy: float = 0.0  # and of its reverse (released: 1; symmetric cross entropy, Wang et al. 2019)
    self_label: float = 0.1  # weight λ_1
    consistency: float = 5.0  # weight λ_2

    # What weak and strong view agree in: predictions, KL both ways (Eq. 13), or assignments to prototypes, the strong
    # view's following the weak one's (released).
    regularise: Literal["predictions", "assignments"] = "predictions"

    strong: Augment = Augment(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2, greyscale=0.2, blur=0.5)
    random_operations: int = 2  # of RandAugment
    cut_mix: float = 0.25  # share of the image that comes from another; 0 = none
    cut_out: float = 0.05  # share of the image that is blanked; 0 = none
    distillation: Schedule = Schedule(40_000, 1e-4)  # of one round
    distillations: int = 2  # rounds
    distil: float = 1.0  # weight of the teacher's divergence
    norm: Norm = "same"  # batch norm's mode from the self-labelling on

    def __post_init__(self) -> None:
        check_bounds(
            self,
            head_factor="not negative",
            momentum="share",
            samples="at least 1",
            bank="not negative",
            temperature="positive",
            epsilon="positive",
            iterations="at least 1",
            share_momentum="share",
            cross_entropy="not negative",
            reverse_cross_entropy="not negative",
            self_label="not negative",
            consistency="not negative",
            random_operations="not negative",
            cut_mix="share",
            cut_out="share",
            distillations="not negative",
            distil="not negative",
        )


@dataclass(frozen=True)
class Recipe:
    """All settings that decide what is learnt from the data."""

    # A name of `fastuda --list-methods`, or package.module:Class of your own (docs/extending.md).
    method: str = "sdca"

    preset: Literal["paper", "released"] = "paper"
    model: ModelConfig = field(default_factory=ModelConfig)
    optimiser: OptimiserConfig = OptimiserConfig()
    views: Views = Views()
    warm_up: WarmUpConfig = WarmUpConfig()
    sdca: SDCAConfig = SDCAConfig()
    spcl: SPCLConfig = SPCLConfig()
    cpsl: CPSLConfig = CPSLConfig()
    mlsl: MLSLConfig = MLSLConfig()
    drsl: DRSLConfig = DRSLConfig()
