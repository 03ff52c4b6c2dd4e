"""The policy for servers that batch and load: task after task, a network corrects the rule. Start in `features`."""
