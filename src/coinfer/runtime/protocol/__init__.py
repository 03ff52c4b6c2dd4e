"""Messages between nodes, and their forms in protobuf and JSON.

Start in `messages`; `checks` refuses what is wrong.
"""
