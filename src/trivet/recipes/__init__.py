"""Recipes: the declarative choice of loss, optimizer and learning rate, and what people and rules do with it."""

from __future__ import annotations

from trivet.recipes.build import Parts
from trivet.recipes.catalogue import loss_class, loss_names, optimizer_class, optimizer_names
from trivet.recipes.recipe import Advice, Edit, Finding, Recipe, Value

__all__ = [
    "Advice",
    "Edit",
    "Finding",
    "Parts",
    "Recipe",
    "Value",
    "loss_class",
    "loss_names",
    "optimizer_class",
    "optimizer_names",
]
