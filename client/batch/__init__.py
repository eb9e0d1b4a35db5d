"""`lybic-guiagent batch`: a file of rows, each carried out once, whatever is interrupted."""
