"""The study's parts, and the one place where YAML becomes them."""

from common.study.load import load_study, parse_study
from common.study.study import (
    BACKGROUND,
    Augmentation,
    Distillation,
    Evaluation,
    Federation,
    Label,
    Modality,
    SearchTerms,
    Sharing,
    Study,
    Training,
    approval_hash,
    canonical_json,
    study_hash,
)

__all__ = [
    "BACKGROUND",
    "Augmentation",
    "Distillation",
    "Evaluation",
    "Federation",
    "Label",
    "Modality",
    "SearchTerms",
    "Sharing",
    "Study",
    "Training",
    "approval_hash",
    "canonical_json",
    "load_study",
    "parse_study",
    "study_hash",
]
