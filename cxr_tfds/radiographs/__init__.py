"""Radiographs as hospitals have them, DICOM and 16 bits included, from bytes to grey pixels."""
