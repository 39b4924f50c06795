"""Images that the worker reads itself and sends inline: read, cropped, turned, made smaller, and each asked once.

    row -> Reading (a bundle's, in front of the engine) -> Pool (the process's threads) -> objects, box, prepare -> Picture

Pillow and Google's storage client are loaded when the first image is read: launchers do not pay for them.
"""
