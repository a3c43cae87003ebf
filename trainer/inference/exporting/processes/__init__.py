"""Scripts, run by path in a process of their own: converters and runtimes. Nothing imports them.

A converter prints, and may crash; a runtime has to do without TensorFlow, Keras and this package.
"""
