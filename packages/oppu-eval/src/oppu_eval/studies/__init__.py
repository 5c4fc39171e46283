"""The paper's further experiments: ``oppu study NAME`` (docs/studies.md).

A study asks for plain runs, which core trains and answers, and draws its conclusions from their answers and
weights. One module a study; what they share is ``context`` (what it stands on), ``scoring`` (users' scores),
``result`` (what it returns) and ``output`` (files, terminal, report).
"""
