"""What commands compute and print, as tables for a person; the files beside this folder parse their options."""
