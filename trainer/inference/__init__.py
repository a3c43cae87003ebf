"""What a trained model is used for: predictions of files, heat maps, exports."""
