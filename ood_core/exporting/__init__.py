"""Maps on their way out: files of other formats, made of what a run stored or of maps in memory."""
