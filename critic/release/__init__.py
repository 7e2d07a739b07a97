"""From a trained critic to the one in service: gate, registry, promotion, rollback, drift."""
