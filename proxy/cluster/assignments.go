package cluster

import (
	"slices"

	"outrider/proxy/config"
)

// A service is known by its name, or by what Options.ServiceKey makes of it.

// SetAssignment gives the endpoints of a service to the EDS clusters that
// follow it, now and later.
func (s *Set) SetAssignment(serviceName string, a *config.Assignment) {
	s.assigning.Lock()
	defer s.assigning.Unlock()
	s.mu.Lock()
	s.assignments[serviceName] = a
	followers := slices.Clone(s.followers[serviceName])
	s.mu.Unlock()
	for _, c := range followers {
		c.assign(a)
	}
}

// firstAssignment gives c what came before it.
func (s *Set) firstAssignment(c *Cluster) {
	if c.cfg.Type != config.EDSType {
		return
	}
	s.assigning.Lock()
	defer s.assigning.Unlock()
	s.mu.Lock()
	a := s.assignments[c.serviceKey()]
	s.mu.Unlock()
	if a != nil {
		c.assign(a)
	}
}

// DropAssignment forgets the endpoints of a service that nobody asks for any
// more. Clusters that have them keep them. It may be called from within
// SetAssignment, by Options.Endpoints' stop.
func (s *Set) DropAssignment(serviceName string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.assignments, serviceName)
}

// RefuseAssignment counts an assignment that was refused, for the clusters that
// follow it. What they have goes on.
func (s *Set) RefuseAssignment(serviceName string) {
	for _, c := range s.followersOf(serviceName) {
		c.members.attempt.Inc()
		c.members.rejected.Inc()
	}
}

// FailAssignment counts that the stream of an assignment ended.
func (s *Set) FailAssignment(serviceName string) {
	for _, c := range s.followersOf(serviceName) {
		c.members.attempt.Inc()
		c.members.failure.Inc()
	}
}

// NoAssignment says that the server has no endpoints for a service: who has
// some keeps them, who waits for the first ones waits no longer.
func (s *Set) NoAssignment(serviceName string) {
	for _, c := range s.followersOf(serviceName) {
		c.giveUp()
	}
}

func (s *Set) followersOf(serviceName string) []*Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.followers[serviceName])
}
