"""The paper's further experiments: ``oppu study NAME`` (docs/studies.md).

A study requests ordinary runs, which core trains and answers, and draws conclusions from their answers and
weights. Each study is a module; they share ``context`` (data, base and settings), ``scoring`` (users'
scores), ``result`` (what a study returns) and ``output`` (files, terminal, report).
"""
