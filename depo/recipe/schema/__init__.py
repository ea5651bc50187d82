"""The recipe schema: every key a user can set, with its default, its unit and its meaning.

One module a block. Importing them must stay cheap (no torch, ray, transformers): ``--dry-run`` and
``--help`` depend on it. Unknown keys are errors. Blocks with a ``type`` key are discriminated unions.
"""

from depo.recipe.schema.block import (
    SCHEMA_VERSION,
    TABLE_SUFFIXES,
    BelowOne,
    Block,
    Fraction,
    Plugin,
)
from depo.recipe.schema.data import (
    ArithmeticSource,
    Columns,
    Data,
    FileSource,
    Grading,
    HubSource,
    PluginSource,
    ReasoningGymSource,
    Source,
    source_from_shorthand,
)
from depo.recipe.schema.evaluation import EarlyStopping, EvalSet, Evaluation
from depo.recipe.schema.guards import Guard, Guards, RelativeGuard
from depo.recipe.schema.learner import (
    Batch,
    CispoLoss,
    ClippedLoss,
    Correction,
    DapoLoss,
    DrGrpoLoss,
    GrpoLoss,
    GspoLoss,
    IcePopCorrection,
    KPopCorrection,
    Learner,
    Loss,
    MisCorrection,
    NoCorrection,
    PluginCorrection,
    PluginLoss,
    TisCorrection,
)
from depo.recipe.schema.policy import (
    Lora,
    Policy,
    PretrainedPolicy,
    Rollouts,
    TinyMoePolicy,
    TransformersEngine,
    VllmEngine,
    WarmStart,
)
from depo.recipe.schema.recipe import Checkpoints, Recipe, Resources, TrackerSpec, Tracking
from depo.recipe.schema.reward import (
    ExactReward,
    FormatReward,
    FunctionReward,
    MathReward,
    OverlongReward,
    PluginReward,
    ReasoningGymReward,
    RewardSpec,
    Verification,
    WeightedPart,
    WeightedReward,
)
from depo.recipe.schema.selection import (
    DepoEstimator,
    DpsEstimator,
    EstimatorSpec,
    GreedySelection,
    GresoEstimator,
    GumbelSelection,
    HybridEstimator,
    MoppsEstimator,
    OptimisticSelection,
    OracleEstimator,
    PluginEstimator,
    PluginSelection,
    RuleSelection,
    Selection,
    SelectionBase,
    SkipSelection,
    ThompsonSelection,
    ThresholdSelection,
    UniformEstimator,
    UniformSelection,
    WindowSelection,
)
