"""The subjects that questions are sorted into: 61 two-digit classes of the Mathematics Subject Classification.

s1 drew its diversity over these (the released featurization.py lists the codes). The titles are the classification's
own. What belongs to a subject is said here in a few words meant for school and university problems, which is what the
pool consists of: the classification itself thinks of research papers.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    code: str
    title: str
    covers: str


_SUBJECTS = """
03 | Mathematical logic and foundations | proofs, sets and cardinals, models, computability, truth-teller puzzles
05 | Combinatorics | counting arrangements, graphs, tilings and colourings, pigeonholes and invariants
06 | Order, lattices, ordered algebraic structures | partially ordered sets, chains, lattices, Boolean algebras
08 | General algebraic systems | sets with arbitrary operations, identities between them, universal algebra
11 | Number theory | divisibility, primes, congruences, digits, Diophantine equations, arithmetic functions
12 | Field theory and polynomials | roots and factors of polynomials, Vieta, field extensions, Galois groups
13 | Commutative algebra | commutative rings, ideals and modules over them, factorisation in rings
14 | Algebraic geometry | curves and surfaces given by polynomials, varieties, intersection numbers
15 | Linear and multilinear algebra; matrix theory | matrices, determinants, eigenvalues, vector spaces, tensors
16 | Associative rings and algebras | noncommutative rings, matrix rings, modules, quaternions as an algebra
17 | Nonassociative rings and algebras | Lie and Jordan algebras, octonions, their representations
18 | Category theory; homological algebra | functors, limits, exact sequences, derived functors
19 | K-theory | Grothendieck and Whitehead groups of rings and spaces
20 | Group theory and generalizations | finite and infinite groups, permutations, group actions, semigroups
22 | Topological groups, Lie groups | continuous groups, matrix groups as manifolds, their representations
26 | Real functions | limits, derivatives, integrals and graphs of real functions, inequalities, means
28 | Measure and integration | measurable sets, Lebesgue integral, areas and volumes as measures, fractal dimension
30 | Functions of a complex variable | complex numbers in the plane, analytic functions, residues, conformal maps
31 | Potential theory | harmonic functions, potentials of masses and charges, Dirichlet problem
32 | Several complex variables and analytic spaces | analytic functions of more than one variable
33 | Special functions | trigonometric and logarithmic identities, gamma, Bessel, hypergeometric functions
34 | Ordinary differential equations | initial and boundary value problems in one variable, stability
35 | Partial differential equations | heat, wave and Laplace equations, characteristics, equations of several variables
37 | Dynamical systems and ergodic theory | iteration of maps, orbits, fixed points, chaos, long-run averages
39 | Difference and functional equations | recurrences, finding all functions that satisfy an identity
40 | Sequences, series, summability | convergence, closed forms of finite and infinite sums, products
41 | Approximations and expansions | best approximation, interpolation, error of an expansion, asymptotic estimates
42 | Harmonic analysis on Euclidean spaces | Fourier series and transforms, trigonometric polynomials, wavelets
43 | Abstract harmonic analysis | Fourier analysis on groups other than Euclidean space
44 | Integral transforms, operational calculus | Laplace, Mellin and similar transforms and their use
45 | Integral equations | an unknown function under an integral sign: Volterra, Fredholm
46 | Functional analysis | Banach and Hilbert spaces, norms, duals, distributions
47 | Operator theory | bounded and unbounded operators, spectra, compactness
49 | Calculus of variations and optimal control; optimization | extremal curves and shapes, steering at least cost
51 | Geometry | triangles, circles, polygons and solids, lengths, angles and areas, coordinates, constructions
52 | Convex and discrete geometry | convex bodies, polytopes, packings, lattice points, arrangements of points and lines
53 | Differential geometry | curvature of curves and surfaces, geodesics, Riemannian metrics
54 | General topology | open sets, continuity, compactness, metric spaces
55 | Algebraic topology | fundamental group, homology, homotopy, covering spaces
57 | Manifolds and cell complexes | knots, surfaces, low-dimensional manifolds, triangulations
58 | Global analysis, analysis on manifolds | differential forms and operators on manifolds
60 | Probability theory and stochastic processes | chances, expectations, distributions, random walks, Markov chains
62 | Statistics | samples and data, estimation, tests, regression, design of experiments
65 | Numerical analysis | computing to a given accuracy, root finding, quadrature, rounding errors
68 | Computer science | algorithms, programming tasks, data structures, complexity, automata, machine learning
70 | Mechanics of particles and systems | motion, forces, energy and momentum of bodies, oscillations, orbits
74 | Mechanics of deformable solids | stress and strain, elasticity, beams, strength of materials
76 | Fluid mechanics | pressure, buoyancy, flow of liquids and gases, viscosity, shock waves
78 | Optics, electromagnetic theory | light, lenses, interference, charges and currents, induction, waves
80 | Classical thermodynamics, heat transfer | heat, work, gases, engines, entropy, conduction and radiation of heat
81 | Quantum theory | wave functions, spectra of atoms and molecules, spin, particles and fields
82 | Statistical mechanics, structure of matter | ensembles, phase transitions, kinetic theory, crystals and solids
83 | Relativity and gravitational theory | moving clocks and rods, space-time, black holes, cosmological models
85 | Astronomy and astrophysics | stars, planets, galaxies, telescopes, observation of the sky
86 | Geophysics | the Earth's interior, oceans, atmosphere and climate; geography and geology
90 | Operations research, mathematical programming | linear and integer programs, schedules, queues, transport
91 | Game theory, economics, social and behavioral sciences | strategies, voting, finance, law, society, reading
92 | Biology and other natural sciences | living organisms, genetics, medicine, and all of chemistry
93 | Systems theory; control | feedback, transfer functions, stability and observability of systems
94 | Information and communication, circuits | codes, entropy, cryptography, signals, logic and electrical circuits
97 | Mathematics education | elementary word problems and arithmetic without further theory, riddles, teaching
"""

SUBJECTS = {s.code: s for s in (Subject(*line.split(" | ")) for line in _SUBJECTS.strip().splitlines())}
