"""A run's numbers for other tools: TensorBoard, Parquet, CSV."""
