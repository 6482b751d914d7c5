//! A new domain at every step, with the same or other classes.

use std::collections::HashMap;

use super::{Item, Stream, StreamKind, collect, repeated};
use crate::error::{Error, Result};

/// A step for each domain of `order`; domains that it does not name are left out. `names` are the domains' names by
/// index, for tables; a domain beyond them is called `domain <index>`. It is an error of input if a domain is named
/// twice or has no training sample.
pub(crate) fn domain_incremental(items: &[Item], order: &[u32], names: &[String]) -> Result<Stream> {
    if order.is_empty() {
        return Err(Error::input("a domain-incremental stream needs at least one domain"));
    }
    if let Some(domain) = repeated(order) {
        return Err(Error::input(format!("the order of domains names domain {domain} twice")));
    }
    let name = |domain: u32| names.get(domain as usize).cloned().unwrap_or_else(|| format!("domain {domain}"));
    let step_of: HashMap<u32, usize> = order.iter().enumerate().map(|(step, domain)| (*domain, step)).collect();
    let names = order.iter().map(|domain| name(*domain)).collect();
    let steps = collect(items, names, |item| step_of.get(&item.domain).copied())?;
    for (step, domain) in steps.iter().zip(order) {
        if step.train.is_empty() && step.test.is_empty() {
            return Err(Error::input(format!("unknown domain {domain}: the data set has no sample of it")));
        }
        if step.train.is_empty() {
            return Err(Error::input(format!("domain {domain} ('{}') has no training samples", step.name)));
        }
    }
    Ok(Stream::new(StreamKind::DomainIncremental, steps))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_partition, items, labels};
    use super::*;

    #[test]
    fn domains_come_in_the_order_given() {
        let items = items(6);
        let names = ["real", "quickdraw"].map(String::from);
        let stream = domain_incremental(&items, &[1, 2, 0], &names).unwrap();
        check_partition(&stream, &items);
        let named: Vec<&str> = stream.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(named, ["quickdraw", "domain 2", "real"]);
        assert_eq!(stream.steps[0].classes, labels([1, 4]));
        assert_eq!(stream.steps[0].train, [1, 4, 13, 16]);
        assert_eq!(stream.class_order, labels([1, 4, 2, 5, 0, 3]));
        assert_eq!(domain_incremental(&items, &[2], &names).unwrap().steps.len(), 1);
    }

    #[test]
    fn wrong_domains_are_refused() {
        let mut items = items(6);
        items.iter_mut().filter(|item| item.domain == 2).for_each(|item| item.train = false);
        let wrong = |order: &[u32]| domain_incremental(&items, order, &[]).unwrap_err().to_string();
        assert_eq!(wrong(&[]), "a domain-incremental stream needs at least one domain");
        assert_eq!(wrong(&[0, 1, 0]), "the order of domains names domain 0 twice");
        assert_eq!(wrong(&[0, 7]), "unknown domain 7: the data set has no sample of it");
        assert_eq!(wrong(&[0, 2]), "domain 2 ('domain 2') has no training samples");
    }
}
