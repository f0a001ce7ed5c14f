"""Made-up patients: CT and MR data sets for trying things out without a hospital."""

from deploy.phantoms.anatomy import ORGANS, Tissue, label_map, sample_anatomy
from deploy.phantoms.difficulty import DIFFICULTIES, Difficulty, DifficultyName
from deploy.phantoms.physics import Scanner, draw_scanner, render_ct, render_mr
from deploy.phantoms.plan import PhantomPlan, SitePlan, parse_sites
from deploy.phantoms.write import write_phantoms

__all__ = [
    "DIFFICULTIES",
    "ORGANS",
    "Difficulty",
    "DifficultyName",
    "PhantomPlan",
    "Scanner",
    "SitePlan",
    "Tissue",
    "draw_scanner",
    "label_map",
    "parse_sites",
    "render_ct",
    "render_mr",
    "sample_anatomy",
    "write_phantoms",
]
