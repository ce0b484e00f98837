"""The operator: turns MomCluster, MomTopic and MomQueue into a running MOM, and keeps it so."""
