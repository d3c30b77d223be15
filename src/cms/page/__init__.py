"""Pages in a browser: the documents, what they tell (`data`), and how they look (`assets`).

One renderer for all of them: the scripts in `assets`, which make elements of the values that a page is given.
`cms view` serves them, `cms view --export` and a batch's HTML report are files with the values in them. Pure,
but for reading the assets. What a session, a repository or a file says never becomes HTML (`assets/dom.js`).
"""
