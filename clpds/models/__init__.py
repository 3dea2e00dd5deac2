"""What transformers lacks: TRILayer encoders, known to its Auto classes once this is imported, and packed documents."""

import clpds.models.trelm  # noqa: F401 (registers its classes)
