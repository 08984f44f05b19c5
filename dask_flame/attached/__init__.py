"""Attach a notebook to a running application (application, driver).

:mod:`.application` is what lives in the application's process; it imports neither distributed nor
asyncio. :mod:`.client` is what a notebook uses. :mod:`.wire` and :mod:`.places` are common to both.
"""
