"""The page that people look at: who is signed in, what it shows, and its files in ``static/``.

Nothing here speaks HTTP; ``control/console.py`` has the routes. The page is read-only but for one thing, a kill.
"""
