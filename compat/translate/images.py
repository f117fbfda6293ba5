"""Images, from the engine's model to the API's shapes. Pure."""
