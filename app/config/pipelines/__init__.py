"""pipelines.yaml: read, checked as a whole, and told as values (design 5)."""

from app.config.pipelines.loader import Loaded, load, parse
from app.config.pipelines.model import InstanceEntry, Pipeline, PipelineEntry, SectionEntry, Target
from app.config.pipelines.problems import Problem

__all__ = ["InstanceEntry", "Loaded", "Pipeline", "PipelineEntry", "Problem", "SectionEntry", "Target", "load", "parse"]
