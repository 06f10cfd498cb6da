"""From settings to a run about to start: presets, checked sizes, the base policy, all parts.

A ConfigDict comes in; `plan.Plan` (every size known) and `build.Parts` (mesh, data, engine, update)
go out.  Imports every room below it; the rooms below never see a ConfigDict.
"""
