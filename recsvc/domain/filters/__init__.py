"""The filter language: one grammar, one typed tree, used wherever a request has a `filter`.

`parse` makes a tree from text and a schema that says which fields there are; `storage.filter_sql` compiles the tree
to SQL; `evaluate` decides it for one thing in memory. Guide: docs/guides/filters.md.
"""

from recsvc.domain.filters.evaluate import evaluate
from recsvc.domain.filters.parser import parse
from recsvc.domain.filters.schema import EVENT_FIELDS, ITEM_FIELDS, USER_FIELDS, FieldType, FilterSchema
from recsvc.domain.filters.tree import And, Comparison, Field, Has, Not, Operator, Or, Present, Tree, Value

__all__ = [
    "EVENT_FIELDS",
    "ITEM_FIELDS",
    "USER_FIELDS",
    "And",
    "Comparison",
    "Field",
    "FieldType",
    "FilterSchema",
    "Has",
    "Not",
    "Operator",
    "Or",
    "Present",
    "Tree",
    "Value",
    "evaluate",
    "parse",
]
