//! The order in which the services of an app start.

use std::collections::{BTreeMap, BTreeSet};

use super::{Problem, quoted};

/// Refuses a dependency of a service on itself, on one that does not exist, and cycles; says the cycle.
pub fn check_dependencies(graph: &BTreeMap<&str, &BTreeSet<String>>) -> Result<(), Problem> {
    for (name, needs) in graph {
        for need in *needs {
            if need == name {
                return Err(Problem::new(format!("{name} depends on itself")));
            }
            if !graph.contains_key(need.as_str()) {
                return Err(Problem::new(format!(
                    "{name} depends on {}, which is not a service of this app",
                    quoted(need)
                )));
            }
        }
    }
    dependency_order(graph).map(|_| ())
}

/// The services in an order in which each comes after those it depends on; names that are not in the graph are ignored.
pub fn dependency_order(graph: &BTreeMap<&str, &BTreeSet<String>>) -> Result<Vec<String>, Problem> {
    let mut order: Vec<String> = Vec::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in graph.keys() {
        // Depth first with an explicit path, which is the cycle when a name on it comes up again.
        let mut path: Vec<(&str, Vec<&str>)> = vec![(start, needs_of(graph, start))];
        while let Some((name, rest)) = path.last_mut() {
            let name = *name;
            if done.contains(name) {
                path.pop();
                continue;
            }
            match rest.pop() {
                None => {
                    done.insert(name);
                    order.push(name.to_owned());
                    path.pop();
                }
                Some(next) if done.contains(next) => {}
                Some(next) => {
                    if let Some(at) = path.iter().position(|(other, _)| *other == next) {
                        let mut cycle: Vec<&str> = path[at..].iter().map(|(other, _)| *other).collect();
                        cycle.push(next);
                        return Err(Problem::new(format!("the dependencies form a cycle: {}", cycle.join(" -> "))));
                    }
                    path.push((next, needs_of(graph, next)));
                }
            }
        }
    }
    Ok(order)
}

fn needs_of<'a>(graph: &BTreeMap<&'a str, &'a BTreeSet<String>>, name: &str) -> Vec<&'a str> {
    let Some(needs) = graph.get(name) else { return Vec::new() };
    // Popped from the back, so reversed for alphabetical order.
    needs.iter().rev().map(String::as_str).filter(|need| graph.contains_key(need)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph<'a>(edges: &'a [(&'a str, BTreeSet<String>)]) -> BTreeMap<&'a str, &'a BTreeSet<String>> {
        edges.iter().map(|(name, needs)| (*name, needs)).collect()
    }

    fn edges<'a>(list: &[(&'a str, &[&str])]) -> Vec<(&'a str, BTreeSet<String>)> {
        list.iter().map(|(name, needs)| (*name, needs.iter().map(|n| (*n).to_owned()).collect())).collect()
    }

    #[test]
    fn dependencies_come_first() {
        let list = edges(&[("api", &["db", "cache"]), ("cache", &[]), ("db", &["cache"]), ("web", &["api"])]);
        assert_eq!(dependency_order(&graph(&list)), Ok(["cache", "db", "api", "web"].map(String::from).to_vec()));
        assert_eq!(check_dependencies(&graph(&list)), Ok(()));
    }

    #[test]
    fn cycles_are_refused_and_said() {
        let list = edges(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"])]);
        let problem = check_dependencies(&graph(&list)).expect_err("a cycle");
        assert!(problem.0.contains("a -> b -> c -> a"), "{problem}");
        for list in [edges(&[("a", &["a"])]), edges(&[("a", &["gone"])])] {
            assert!(check_dependencies(&graph(&list)).is_err());
        }
    }
}
