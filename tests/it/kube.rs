//! Atlas on a real Kubernetes API.
