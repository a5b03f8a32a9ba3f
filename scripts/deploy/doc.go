// Package deploy holds what an operator takes to run both servers, and the tests that try
// it: alerts and a dashboard for Prometheus, units for systemd, and manifests for
// containers. Tests whose program is not installed skip, and fail where HANDOFF_CI is set.
package deploy
