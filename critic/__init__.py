"""Train, run, measure, serve, release and audit a critic of image edits. Imports no stage or flow.

Each package below has one kind of work, and says in its docstring what it holds. The modules beside them (prompts,
answers, pictures, tables, files...) are what several packages use.
"""
