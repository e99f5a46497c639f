"""What events hold, by name: features and their kinds, schemas, and the layout of files of jets.

Feature   one feature of an object or of an event: name, unit, kind, label, limits
Schema    all of them, as an object and as a node of plain values
JETNET    the schema of the layout of JetNet, the default
COLLISIONS  the schema of whole events: leptons, photons, jets, missing momentum
Kind      what values a feature takes: Real, Positive, Bounded, Angle, Category
"""

from setflow.schema.collisions import COLLISIONS, OBJECT_TYPES, TOP_PAIR_CHANNELS
from setflow.schema.features import Feature, Limits, Schema, axis_label, kind_names, names
from setflow.schema.jets import (
    DATASETS,
    JET_FEATURES,
    JET_UNITS,
    JETNET,
    KEPT_FEATURES,
    PARTICLE_FEATURES,
    PARTICLE_TYPES,
    PARTICLE_UNITS,
    RELATIVE_JET_UNITS,
    TYPE,
    TYPED_JETNET,
    DatasetSpec,
    GivenSchema,
    ParticleType,
    event_of,
    lists_objects,
    schema_of,
)
from setflow.schema.kinds import (
    Angle,
    Bounded,
    Category,
    Kind,
    Positive,
    Real,
    kind_of,
)
from setflow.schema.types import ObjectTypes
from setflow.schema.words import (
    EVENT_WORDS,
    JET_WORDS,
    Words,
    kept_objects,
    left_out_of,
    words_of,
)

__all__ = [
    "COLLISIONS",
    "DATASETS",
    "EVENT_WORDS",
    "JETNET",
    "JET_FEATURES",
    "JET_UNITS",
    "JET_WORDS",
    "KEPT_FEATURES",
    "OBJECT_TYPES",
    "PARTICLE_FEATURES",
    "PARTICLE_TYPES",
    "PARTICLE_UNITS",
    "RELATIVE_JET_UNITS",
    "TOP_PAIR_CHANNELS",
    "TYPE",
    "TYPED_JETNET",
    "Angle",
    "Bounded",
    "Category",
    "DatasetSpec",
    "Feature",
    "GivenSchema",
    "Kind",
    "Limits",
    "ObjectTypes",
    "ParticleType",
    "Positive",
    "Real",
    "Schema",
    "Words",
    "axis_label",
    "event_of",
    "kept_objects",
    "kind_names",
    "kind_of",
    "left_out_of",
    "lists_objects",
    "names",
    "schema_of",
    "words_of",
]
