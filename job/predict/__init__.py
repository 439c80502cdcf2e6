"""What a run predicts for new samples: `load(RUN).predict(…)`; docs/predicting.md."""

from job.predict.load import load
from job.predict.predicted import Predicted
from job.predict.predictor import Predictor

__all__ = ["Predicted", "Predictor", "load"]
