"""Looking at models: what their weights really are, whatever their names and configs say."""
